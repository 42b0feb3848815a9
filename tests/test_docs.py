"""README and docs hold: Python blocks run, links lead somewhere, generated parts are those of the code."""

import importlib.util
import json
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "LOG.md"]
BLOCK = re.compile(r"^```python(?: needs=(\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(path):
    return str(path.relative_to(ROOT))


def load_tables():
    spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "docs" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = load_tables()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_python_blocks_run(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # Lightning's and transformers' warnings, on import and in a run, are theirs; what is ours stays an error.
    foreign = any(match[1] for match in BLOCK.finditer(path.read_text(encoding="utf-8")))
    module = type(sys)(f"docs_{path.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where pickle and inspect look for classes
    with warnings.catch_warnings():
        if foreign:
            warnings.simplefilter("ignore")
        for match in BLOCK.finditer(path.read_text(encoding="utf-8")):
            if match[1]:
                pytest.importorskip(match[1])
            line = path.read_text(encoding="utf-8").count("\n", 0, match.start(2))
            code = compile("\n" * line + match[2], str(path), "exec")
            exec(code, vars(module))
    torch.compiler.reset()


@pytest.mark.parametrize("path", LINKED, ids=name_of)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = path if not file else (path.parent / file).resolve()
        assert found.exists(), f"{name_of(path)} links to {target}, which is not there"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_generated_parts_are_up_to_date():
    stale = [f"{name_of(path)}: {region}" for path, region, _ in tables.stale()]
    assert not stale, f"stale: {', '.join(stale)}. Run `make docs`."


def test_figures_of_the_benchmarks_become_tables(monkeypatch, tmp_path):
    figures = [
        {"setup": "3 heads", "method": "MGDA", "path": path, "ratio": ratio}
        for path, ratio in (("one_backward", 1.01), ("per_loss", 1.2))
    ]
    run = {"date": "2026-01-02", "torch": "2", "processor": "P", "figures": figures}
    (tmp_path / "results.json").write_text(json.dumps({"steps": run}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results.json")
    assert "| 3 heads | MGDA | 1.01 | 1.20 |" in tables.costs()
    assert "2026-01-02" in tables.costs()
    assert r"| 3 heads | MGDA | per\_loss | 1.2 |" in tables.benchmarks()
    assert "Not measured yet." in tables.benchmarks()


def test_every_file_of_the_root_is_explained():
    unexplained = [name for name in tables.top_level() if name not in tables.TOP_LEVEL]
    assert not unexplained, f"say in docs/tables.py (TOP_LEVEL) what these are for: {', '.join(unexplained)}"


def test_every_data_set_that_users_copy_is_listed():
    """What is told when it is missing stands in the tables of data, too."""
    sources = [path.read_text() for path in (ROOT / "src" / "manyloss" / "lab").rglob("*.py")]
    asked = {
        name for text in sources for name in re.findall(r'(?:find_file|missing_files)\("([\w-]+)"', text)
    }
    assert {"nyuv2", "camvid", "school"} < asked
    pages = "".join((ROOT / "docs" / page).read_text() for page in ("lab.md", "board.md"))
    first_cells = re.findall(r"^\| ([^|]+) \|", pages, re.MULTILINE)
    rows = {re.sub(r"[^a-z0-9]", "", cell.lower()) for cell in first_cells}
    downloaded = {"mnist"}
    names = {name.replace("-", "") for name in asked - downloaded}
    assert sorted(name for name in names if not any(row.startswith(name) for row in rows)) == []


def test_every_public_method_has_its_page():
    for method, module in tables.public_methods():
        page = ROOT / "docs" / "methods" / f"{tables.page(method)}.md"
        assert page.exists(), f"{method.__name__} ({module.__name__}) has no page {name_of(page)}"
        title = page.read_text(encoding="utf-8").splitlines()[0]
        assert re.search(rf"\b{method.__name__}\b", title), (
            f"{name_of(page)} does not name {method.__name__} in its title"
        )


def test_no_page_is_left_over():
    pages = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")}
    assert pages == {tables.page(method) for method, _ in tables.public_methods()} | {"torchjd"}


@pytest.mark.parametrize("part", ["**Settings.", "**When.", "**In the wild.", "```python"])
def test_every_method_page_has_all_parts(part):
    for path in (ROOT / "docs" / "methods").glob("*.md"):
        if path.stem == "distillation" and part == "**Settings.":  # four methods, each with its own
            continue
        assert part in path.read_text(encoding="utf-8"), f"{name_of(path)} has no part {part}"


def test_troubleshooting_quotes_real_errors():
    texts = [site.text for site in tables.raise_sites()]
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^### `(.*)`$", page, re.MULTILINE)
    assert quoted
    for quote in quoted:
        assert any(tables.matches(quote, text) for text in texts), f"no error says {quote!r}"
    assert not any(tables.matches("no such error …", text) for text in texts)


def test_the_error_table_comes_from_where_errors_are_made(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "some.py").write_text(
        """
HINT = "take another"

def check(x, names, way):
    if x:
        raise ValueError(f"x is {x.shape!r} of {type(x).__name__}, not {names[0]}: {HINT}{'' if x else '.'}")
    raise errors.OddError("plain " + f"and {', '.join(n for n in names)}") from None

def made(error):
    raise error
    return TypeError("returned to who raises it")

class Quiet(Exception): ...
raise Quiet("no error")
raise RuntimeError(f"{made}")
raise RuntimeError(made)
"""
    )
    assert tables.raise_sites(package) == [
        ("package.some", "ValueError", "x is {shape} of {x}, not {names}: take another."),
        ("package.some", "OddError", "plain and {names}"),
        ("package.some", "TypeError", "returned to who raises it"),
    ]


def test_no_page_names_a_machine():
    for path in LINKED:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(work|tmp|home|root)/", text), (
            f"{name_of(path)} has a path of a machine"
        )


def test_a_claim_shows_its_readings_and_both_readings_of_targets():
    assert tables._readings({}) == ""
    shown = tables._readings(
        {
            "readings": {
                "says": "holds under 2 of 4 readings",
                "open": {
                    "rate": {"open": "the rate", "values": [0.1, 0.2], "share of the variance": 0.75},
                    "start": {"open": "the start", "values": [1, 2], "share of the variance": None},
                },
            }
        }
    )
    assert shown.startswith("The claim holds under 2 of 4 readings.")
    assert "| the rate | 0.1, 0.2 | 75% |" in shown
    assert "| the start | 1, 2 | – |" in shown
    record = {"measured": {"a": {"FGSM": 0.5}}, "paper_numbers": {"a": {"FGSM least likely": 0.9}}}
    assert tables._targeted(record) == ""
    record["measured"]["a"] |= {"FGSM least likely": 0.25}
    assert "| `a` | 25.0% (90.0%) | – | – | – |" in tables._targeted(record)
    assert "the target was not counted then" in tables._targeted(record)
    record["measured"]["a"] |= {"FGSM least likely, target missed": 0.75}
    assert "| `a` | 25.0% / 75.0% (90.0%) | – | – | – |" in tables._targeted(record)
