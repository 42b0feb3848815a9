import io
import json
import re
import shutil

import pytest
from rich.cells import cell_len
from rich.console import Console

from manyloss.lab.analysis.cells import column_titles, decimals, interval_text
from manyloss.lab.analysis.results import MetricColumn
from manyloss.lab.analysis.statistics import Interval
from manyloss.lab.analysis.table import read_table
from manyloss.lab.analysis.terminal import print_table
from manyloss.lab.runs.storage import trial_folder
from tests.lab.run_folders import make_run


def printed(table, width=100):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_table(table, console)
    return console.file.getvalue()


def row_of(text, arm):
    return next(line for line in text.splitlines() if line.startswith(f"{arm} "))


def test_one_row_per_method_in_the_order_of_the_study(finished_run):
    table = read_table(finished_run)
    assert [row.arm for row in table.rows] == ["equal", "gradnorm", "graddrop", "pcgrad", "mgda", "cosreg"]
    assert all(row.finished == row.planned == 5 for row in table.rows)


def test_the_numbers_are_those_of_the_test_split(finished_run):
    table = read_table(finished_run)
    folders = [trial_folder(finished_run, "mgda", seed) for seed in range(5)]
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    values = [result["test"]["left/accuracy"] for result in results]
    assert results[0]["test"] != results[0]["validation"]
    assert table.rows[4].comparison.metrics["left/accuracy"].mean == pytest.approx(sum(values) / 5)


def test_printed_table_has_the_numbers_and_the_words(finished_run):
    text = printed(read_table(finished_run))
    assert re.search(r"left ↑ +right ↑ +vs equal +p +rank +time +seeds", text)
    assert re.search(r"0\.\d+ ± 0\.\d+ .* ▲ \+3\.\d% ± 0\.\d%", row_of(text, "pcgrad"))
    assert "▼ −5." in row_of(text, "mgda")
    assert "1.00×" in row_of(text, "equal")
    assert "beat equal weights beyond noise" in " ".join(text.split())


@pytest.mark.parametrize("width", [120, 100, 80, 60, 40])
@pytest.mark.parametrize("run", ["finished_run", "mixed_run", "wide_run"])
def test_nothing_is_wider_than_the_terminal(run, width, request):
    text = printed(read_table(request.getfixturevalue(run)), width)
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= min(width, 100)
    assert all(row_of(text, arm) for arm in ("equal", "pcgrad", "cosreg"))


def test_narrow_terminals_lose_columns_in_order(finished_run):
    table = read_table(finished_run)
    heads = {width: printed(table, width).splitlines()[0].split() for width in (100, 60, 50, 40)}
    assert heads[100] == ["method", "left", "↑", "right", "↑", "vs", "equal", "p", "rank", "time", "seeds"]
    assert heads[60] == ["method", "vs", "equal", "p", "rank", "time", "seeds"]
    assert heads[50] == ["method", "vs", "equal", "p", "rank", "seeds"]
    assert heads[40] == ["method", "vs", "equal", "seeds"]


def test_no_cell_of_the_table_is_cut(finished_run):
    for width in (100, 60, 50, 40):
        assert "…" not in printed(read_table(finished_run), width)


def test_metrics_that_do_not_fit_get_their_own_table(finished_run):
    text = printed(read_table(finished_run), 80)
    assert re.search(r"^method +left ↑ +right ↑$", text, flags=re.M)
    assert re.search(r"^pcgrad +0\.\d+ ± 0\.\d+ +0\.\d+ ± 0\.\d+$", text, flags=re.M)


def test_many_metrics_are_rows_and_what_is_left_out_is_said(tmp_path):
    folder = make_run(tmp_path / "run", tasks=[f"attribute {i:02d}" for i in range(40)], seeds=2, epochs=3)
    text = printed(read_table(folder))
    assert re.search(r"^attribute 11 ↑ +0\.\d+ ± ", text, flags=re.M)
    assert re.search(r"^28 more metrics( and \d more methods)? in report\.html\.", text, flags=re.M)


def test_failures_are_rows_with_their_reason(mixed_run):
    text = printed(read_table(mixed_run))
    told = " ".join(text.split())
    assert "✕ crashed" in row_of(text, "gradnorm")
    assert "0/5" in row_of(text, "gradnorm")
    assert "3/5" in row_of(text, "mgda")
    assert "gradnorm: no result, all 5 seeds crashed (RuntimeError: <script>alert(1)</script>)." in told
    assert "seeds 1, 3 diverged (loss 'left' is nan at step 212)" in told
    assert "seed 4 not finished yet (stopped after epoch 6)" in told
    assert "seed 4 not started yet" in told
    assert "So far, with 2 trials still to run:" in told


def test_a_name_is_not_markup(tmp_path):
    folder = make_run(tmp_path / "run", arms=["equal", "[red]odd[/red]"], seeds=2, epochs=3)
    assert "[red]odd[/red]" in printed(read_table(folder))


def test_digits_follow_the_interval():
    cells = [Interval(0.85342, 0.0061, 5), Interval(0.861, 0.0072, 5)]
    assert decimals(cells) == 4
    assert interval_text(cells[0], 4) == "0.8534 ± 0.0061"
    assert interval_text(Interval(-12.0, None, 1), 1) == "−12.0"
    assert interval_text(None, 3) == "–"
    assert decimals([Interval(2e7, 1e6, 3)]) is None
    assert interval_text(Interval(2e7, 1e6, 3), None) == "2.00e+07 ± 1.0e+06"
    assert decimals([]) == 0
    assert decimals([Interval(0.81, 0.9, 2)]) == 3
    assert decimals([Interval(1234.5, 30.0, 2)]) == 0
    assert decimals([Interval(0.0, 0.0, 3)]) == 0


def test_titles_are_short_where_that_is_unambiguous():
    def columns(*names):
        return [MetricColumn(name, name.partition("/")[0], True) for name in names]

    assert list(column_titles(columns("a/accuracy", "b/accuracy")).values()) == ["a", "b"]
    both = [*columns("a/accuracy", "b/accuracy"), MetricColumn("harmonic mean", "harmonic mean", True, True)]
    assert list(column_titles(both).values()) == ["a", "b", "harmonic mean"]
    assert list(column_titles(columns("a/accuracy", "b/error")).values()) == ["a/accuracy", "b/error"]
    assert list(column_titles(columns("a/accuracy", "a/error")).values()) == ["a/accuracy", "a/error"]


def test_a_damaged_trial_is_a_row_that_names_the_file_and_the_way_out(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    path = trial_folder(folder, "pcgrad", 2) / "result.json"
    path.write_text('{"status": "fin')
    row = next(row for row in read_table(folder).rows if row.arm == "pcgrad")
    assert row.finished == 4
    assert "seed 2 cannot be read" in row.sentence
    assert str(path) in row.sentence
    assert "run the command that made it again" in row.sentence
