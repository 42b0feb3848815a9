import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from plotly.offline import get_plotlyjs

from manyloss.lab.analysis.pareto import pareto
from manyloss.lab.checks import LabError
from manyloss.lab.reports import looks
from manyloss.lab.reports.front import draw_front
from manyloss.lab.reports.looks import SYMBOLS, styles_of
from manyloss.lab.reports.page import write_report
from manyloss.lab.runs import storage
from tests.lab.run_folders import make_run

VOID = {"meta", "link", "br", "path", "img"}


class Page(HTMLParser):
    """Elements, text outside scripts, and whether every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text, self.scripts = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts.append(data)
        else:
            self.text.append(data)

    def words(self):
        return " ".join(" ".join(self.text).split())

    def all(self, tag, **attributes):
        wanted = attributes.items()
        return [found for name, found in self.elements if name == tag and wanted <= found.items()]


def report_of(folder):
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(finished_run):
    text = report_of(finished_run)
    return text, Page(text)


@pytest.fixture(scope="module")
def mixed(mixed_run):
    text = report_of(mixed_run)
    return text, Page(text)


def plots_of(page):
    return [found for _, found in page.elements if (found.get("class") or "").startswith("plot ")]


def test_one_file_that_loads_nothing(finished):
    text, page = finished
    assert text.count(get_plotlyjs()) == 1
    own = text.replace(get_plotlyjs(), "")
    assert "http://" not in own
    assert "https://" not in own
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    assert not any("src" in attributes for _, attributes in page.elements)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


def test_first_words_then_table_then_figures_then_how_it_was_made(finished):
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", finished[0]) == [
        "The answer",
        "The table",
        "Change against the baseline",
        "Learning curves",
        "Loss weights over time",
        "Conflict over time",
        "Gradient norms over time",
        "Step time",
        "How this was made",
    ]


def test_every_method_is_in_the_table_and_the_legend(finished):
    text, page = finished
    names = ["equal", "gradnorm", "graddrop", "pcgrad", "mgda", "cosreg"]
    assert re.findall(r'<th scope="row">(\w+)</th>', text)[:6] == names
    assert [button["title"] for button in page.all("button") if "title" in button][:6] == names


def test_lines_differ_without_colour():
    styles = list(styles_of([f"method {i}" for i in range(len(SYMBOLS))], baseline="method 3").values())
    assert styles[3].hue == "ink"
    assert len({(style.dash, style.symbol) for style in styles}) == len(styles)
    assert all(a.hue != b.hue and a.dash != b.dash for a, b in pairwise(styles[4:]))


def test_every_machine_is_named(finished_run, tmp_path):
    known = storage.read_json(finished_run / "study.json")
    first = {"processor": "Some Xeon", "torch": "2.6.0"}
    known["environment"]["machines"] = [first, {"processor": "AMD EPYC", "torch": "2.13.0"}]
    shutil.copytree(finished_run, tmp_path / "run")
    storage.write_json(tmp_path / "run" / "study.json", known)
    words = Page(report_of(tmp_path / "run")).words()
    assert "trained on: Some Xeon, torch 2.6.0 AMD EPYC, torch 2.13.0" in " ".join(words.split())


def test_provenance(finished):
    words = finished[1].words()
    for said in (
        "manyloss compare cosreg-two-digits --seeds 5 --out 'runs/two digits'",
        "14 March 2026, 15:09 UTC",
        "torch: 2.13.0",
        "processor: AMD EPYC",
        "0, 1, 2, 3, 4",
        "the best on the validation split",
        "the test split was read once",
        "Fewer epochs.",
        "pcgrad : What pcgrad does.",
        "83aee79",
    ):
        assert said in words


def test_figures_have_descriptions_and_headings_have_order(finished):
    _, page = finished
    plots = plots_of(page)
    assert len(plots) > 10
    assert all(plot["role"] == "img" and len(plot["aria-label"]) > 30 for plot in plots)
    assert len(page.all("h1")) == 1
    headings = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h[1-6]", name)]
    assert all(after - before <= 1 for before, after in pairwise(headings))
    assert page.all("html", lang="en")
    assert page.all("meta", name="viewport")


def test_failures_are_told(mixed):
    words = mixed[1].words()
    assert "gradnorm: no result, all 5 seeds crashed" in words
    assert "So far, with 2 trials still to run" in words
    assert "No trial of gradnorm finished: its curves are what the trials reached." in words


def test_a_crash_reason_is_text_and_not_a_script(mixed):
    text, page = mixed
    assert "<script>alert(1)</script>" not in text
    assert "<script>alert(1)</script>" in page.words()


def test_names_are_escaped_everywhere(wide_run, monkeypatch):
    monkeypatch.setattr(looks, "VALIDATE", True)  # that no attribute is one plotly does not have
    text = report_of(wide_run)
    page = Page(text)
    # Each figure brings one script, and the page two: no name opened or closed another.
    assert len(page.all("script")) == 2 + len(plots_of(page))
    assert "task 03 </script> & <b>" in page.words()
    assert "task 03 &lt;/script" not in page.words()


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("study.json", {"seeds": [0, 10**400]}, "study.json is damaged"),
        ("study.json", {"environment": {"commits": [None, 1e400]}}, None),
        (
            "trials/equal/seed-0/result.json",
            {"record": {"robustness": {"curves": 5}}},
            "result.json is damaged",
        ),
        ("trials/equal/seed-0/result.json", {"test": {"left/accuracy": 1e308}}, None),
        ("trials/equal/seed-0/epochs.jsonl", {"epoch": 1, "train": {"left": -1e308}}, None),
        ("trials/equal/seed-0/steps.jsonl", {"step": 10**400}, None),
    ],
)
def test_what_no_run_of_ours_holds_is_one_clear_error_or_left_out(file, change, said, tmp_path):
    folder = make_run(tmp_path / "run", arms=("equal", "mgda"), seeds=2, epochs=2, steps_per_epoch=4)
    path = folder / file
    old = {} if path.suffix == ".jsonl" else json.loads(path.read_text())
    path.write_text(json.dumps({**old, **change}) + "\n")
    if said is None:
        assert "The answer" in report_of(folder)
    else:
        with pytest.raises(LabError, match=said):
            write_report(folder)


def test_an_empty_study_is_a_page_too(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(folder / "trials")
    page = Page(report_of(folder))
    assert "So far, with 30 trials still to run: no trial has finished." in page.words()
    assert "No epoch is finished yet." in page.words()


def test_one_seed_and_one_loss(finished_run, tmp_path):
    page = Page(report_of(make_run(tmp_path / "run", tasks=["only"], seeds=1, epochs=2)))
    assert "One seed cannot tell a difference from noise" in page.words()
    assert "Conflict over time" not in page.words()


def test_a_folder_that_is_no_run_is_an_error_and_nothing_is_written(tmp_path):
    with pytest.raises(LabError, match="is not a run folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_is_an_error(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("report.html"))
    (folder / "report.html").mkdir()
    with pytest.raises(LabError, match=r"Cannot write .*report\.html"):
        write_report(folder)


def test_the_scale_of_the_largest_study(tmp_path):
    folder = make_run(
        tmp_path / "run",
        arms=["equal", *(f"method {i}" for i in range(19))],
        tasks=[f"task {i}" for i in range(40)],
        seeds=2,
        epochs=40,
        steps_per_epoch=40,
        record_every=80,
    )
    assert write_report(folder).stat().st_size < 9e6  # half of that is plotly.js


def test_a_tuned_comparison_has_its_sections(tuned_run, tmp_path):
    page = write_report(tuned_run, tmp_path / "tuned.html").read_text(encoding="utf-8")
    Page(page)
    for heading in ("The front of the sum", "Tuning", "And against the tuned sum."):
        assert heading in page
    assert "learning rate × 0.5" in page
    assert "pcgrad: " in page
    assert "taken in turns, in one" in page


def test_three_metrics_are_parallel_lines():
    values = {seed: [0.5, 0.6 + 0.01 * seed, 0.7] for seed in range(3)}
    found = pareto({"static:a=1": values}, {"m": values}, [0.5, 0.6, 0.7], list("abc"), [True] * 3)
    panel = draw_front(found, styles_of(["m"]))
    assert "Change in a and b and c" in panel.told
    assert panel.figure.count("lines+markers") == 2


def test_an_untuned_comparison_has_none_of_them(finished_run, tmp_path):
    page = write_report(finished_run, tmp_path / "untuned.html").read_text(encoding="utf-8")
    assert "The front of the sum" not in page
    assert "tuned sum" not in page
