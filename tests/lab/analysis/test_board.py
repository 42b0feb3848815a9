"""The board: ranks, tests and the answer over problems; entries that are written and read back."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from manyloss.lab import LabError
from manyloss.lab.analysis.board import Board, Entry, critical_difference, read_entries
from manyloss.lab.analysis.comparison import ComparedMethods
from manyloss.lab.analysis.statistics import Median
from manyloss.lab.recipes import recipe_named
from manyloss.lab.reports.board import cell, write_board
from manyloss.lab.runs.packing import SUFFIX, unpack

RESULTS = Path(__file__).parents[3] / "results" / "board"


def entry(problem, gains, against=None, outcomes=None):
    """One problem with these changes against equal weights; None is a method without a result."""
    rows = [
        {
            "method": method,
            "outcome": "baseline" if method == "equal" else "noise",
            "change": None if method == "equal" else gain,
            "change_half_width": 0.01,
            "outcome_against_tuned_sum": (outcomes or {}).get(method, "noise"),
            "change_against_tuned_sum": (against or {}).get(method, 0.0),
            "change_against_tuned_sum_half_width": 0.01,
            "p_against_tuned_sum": 0.5 if (outcomes or {}).get(method, "noise") == "noise" else 0.03,
            "finished": 0 if gain is None else 3,
            "planned": 3,
            "step_time": None,
        }
        for method, gain in gains.items()
    ]
    return Entry(problem, tuple(rows), {"losses": 2, "tune": 4, "seeds": [0, 1, 2], "epochs": 5})


GAINS = [
    {"equal": 0.0, "a": 0.02, "b": -0.01, "tuned sum": 0.03},
    {"equal": 0.0, "a": 0.01, "b": -0.02, "tuned sum": 0.01},
    {"equal": 0.0, "a": 0.03, "b": 0.01, "tuned sum": 0.04},
]


def test_ranks_tests_and_ties_are_those_of_demsars_paper():
    board = Board.of(entry(f"p{i}", gains) for i, gains in enumerate(GAINS))
    ranks = {each.method: each.mean_rank for each in board.standings}
    assert [each.method for each in board.standings] == ["tuned sum", "a", "equal", "b"]
    assert ranks["tuned sum"] == pytest.approx((1 + 1.5 + 1) / 3)  # a shared first place counts 1.5
    assert ranks["equal"] == pytest.approx((3 + 3 + 4) / 3)
    # Demsar 2006, table 5: q is 2.569 for four methods at 5 %; CD = q sqrt(4 * 5 / (6 * 14)) = 1.25.
    assert critical_difference(4, 14) == pytest.approx(2.569 * math.sqrt(20 / 84), rel=1e-3)
    assert board.critical_difference == pytest.approx(critical_difference(4, 3))
    assert 0 < board.p < 1


def in_two_metrics(values, **more):
    """A problem with an accuracy and an error."""
    found = entry("p", dict.fromkeys(values, 0.0))
    rows = tuple(
        {**row, "left/accuracy": values[row["method"]][0], "right/error": values[row["method"]][1], **more}
        for row in found.rows
    )
    return replace(
        found, rows=rows, run={**found.run, "metrics": {"left/accuracy": True, "right/error": False}}
    )


def test_the_front_is_of_methods_that_no_other_one_equals_everywhere():
    found = in_two_metrics({"equal": (0.8, 2.0), "a": (0.88, 2.5), "b": (0.4, 1.0), "c": (0.88, 2.6)})
    assert found.trade_off == {
        "equal": (0.0, 0.0),
        "a": pytest.approx((0.1, -0.25)),
        "b": pytest.approx((-0.5, 0.5)),
        "c": pytest.approx((0.1, -0.3)),
    }
    assert found.front == {"equal", "a", "b"}


@pytest.mark.parametrize(
    "values",
    [
        {"a": (0.8, 2.0), "b": (0.9, 1.0)},  # nothing to compare with
        {"equal": (0.0, 2.0), "a": (0.9, 1.0)},  # nothing is relative to 0
        {"equal": (None, 2.0), "a": (0.9, 1.0)},
    ],
)
def test_without_a_trade_off_there_is_no_front(values):
    found = in_two_metrics(values)
    assert (found.trade_off, found.front) == ({}, frozenset())
    assert entry("p", GAINS[0]).front == frozenset()  # its metrics are not known


def test_a_method_without_a_metric_has_no_place_beside_the_front():
    found = in_two_metrics({"equal": (0.8, 2.0), "a": (0.9, None), "b": (0.9, 1.0)})
    assert list(found.trade_off) == ["equal", "b"]
    assert found.front == {"b"}


def test_changes_over_all_problems_are_medians():
    entries = [entry(f"p{i}", gains, against={"a": 0.01 * i}) for i, gains in enumerate(GAINS)]
    times = [1.0, 2.0, 4.0]
    entries = [
        replace(each, rows=tuple({**row, "step_time": time} for row in each.rows))
        for each, time in zip(entries, times, strict=True)
    ]
    standings = {each.method: each for each in Board.of(entries).standings}
    a = standings["a"]
    assert a.change == Median(pytest.approx(0.02), None, None, 3)
    assert a.change_against_tuned_sum.median == pytest.approx(0.01)
    assert a.step_time == pytest.approx(2.0)
    assert standings["equal"].change is None
    assert a.delta_m is None


def test_one_problem_that_went_wrong_is_not_the_change_over_all(tmp_path):
    changes = [0.01, 0.02, 0.03, 0.01, 0.02, -10.0]
    board = Board.of(entry(f"p{i}", {"equal": 0.0, "a": change}) for i, change in enumerate(changes))
    a = next(each for each in board.standings if each.method == "a")
    assert (a.change.median, a.change.low, a.change.high) == (pytest.approx(0.015), -10.0, 0.03)
    assert "<td>+1.5% (−1000.0% to +3.0%)</td>" in write_board(tmp_path / "board.html", board).read_text()


def test_the_page_shows_the_front_and_single_tasks_where_they_are(tmp_path):
    values = {"equal": (0.8, 2.0), "a": (0.88, 2.5), "c": (0.88, 2.6)}
    plain = in_two_metrics(values)
    page = write_board(tmp_path / "board.html", Board.of([plain])).read_text()
    assert page.count("<td>●</td>") == 2
    assert "Change in left/accuracy and right/error: equal 0.0%, 0.0%; a +10.0%, −25.0%" in page
    assert "Δm" not in page
    alone = in_two_metrics(values, delta_m=0.0123, delta_m_half_width=0.004)
    page = write_board(tmp_path / "board.html", Board.of([alone])).read_text()
    assert page.count("<td>+1.2% ± 0.4%</td>") == 3  # of the problem
    assert page.count("<td>+1.2%</td>") == 3  # over all problems: it is one
    assert "Δm vs single tasks" in page


def test_what_was_not_run_is_empty_and_ranks_nothing():
    gains = [*GAINS[:2], {**GAINS[2], "b": None}]
    board = Board.of(entry(f"p{i}", each) for i, each in enumerate(gains))
    last = board.standings[-1]
    assert (last.method, last.problems, last.mean_rank) == ("b", 2, None)
    assert cell(board.entries[2], "b") == "–"
    assert cell(board.entries[0], "c") == "–"
    assert cell(board.entries[0], "a") == "≈ +2.0% ± 1.0"
    assert cell(board.entries[0], "equal") == "baseline"


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (
            [{}],
            "On p0 the tuned sum is not beaten by more than noise. With these seeds, differences below 2.1% "
            "could not be told from noise.",
        ),
        (
            [{}, {}],
            "On none of 2 problems does any method beat the tuned sum by more than noise. With these seeds, "
            "differences below 4.1% could not be told from noise (the median problem; 2.1% for p0, "
            "6.2% for p1).",
        ),
        (
            [{}, {"a": "better"}],
            "The tuned sum is beaten by more than noise on 1 of 2 problems (p1: a). Corrected for the number "
            "of problems, too, nothing of it is left. With these seeds, differences below 3.7% could not "
            "be told from noise (the median problem; 2.1% for p0, 5.3% for p1).",
        ),
        (
            [dict.fromkeys(GAINS[0], "untested")] * 2,
            "No method was tested against a tuned sum yet, so that nothing can be said.",
        ),
    ],
)
def test_the_answer(outcomes, said):
    entries = [
        wide(entry(f"p{i}", GAINS[i], outcomes=each), 0.01 + 0.02 * i) for i, each in enumerate(outcomes)
    ]
    assert Board.of(entries).verdict == said


@pytest.mark.parametrize(
    ("p", "said"),
    [
        ([0.024, 0.01], "That holds when corrected for the number of problems, too."),
        ([0.03, 0.01], "Corrected for the number of problems, too, this is left: p1: a."),
        ([0.03, 0.04], "Corrected for the number of problems, too, nothing of it is left."),
        ([None, 0.04], "Corrected for the number of problems, too, nothing of it is left."),
    ],
)
def test_many_problems_are_many_tests(p, said):
    entries = [entry(f"p{i}", gains, outcomes={"a": "better"}) for i, gains in enumerate(GAINS[:2])]
    tested = [
        replace(each, rows=tuple({**row, "p_against_tuned_sum": value} for row in each.rows))
        for each, value in zip(entries, p, strict=True)
    ]
    start = "The tuned sum is beaten by more than noise on 2 of 2 problems (p0: a; p1: a). "
    assert Board.of(tested).verdict.startswith(start + said)
    alone = "On p0 the tuned sum is beaten by more than noise (a). With"
    assert Board.of(tested[:1]).verdict.startswith(alone)


def test_the_limit_is_that_of_the_median_method_after_holms_correction():
    def with_widths(*widths):
        found = entry("p", dict.fromkeys("abcdef", 0.0))
        rows = zip(found.rows, widths, strict=True)
        return replace(
            found, rows=tuple({**row, "change_against_tuned_sum_half_width": width} for row, width in rows)
        )

    # Six methods are untold: t at 1 - 0.05 / 12 and 2 degrees of freedom, where an interval has 0.975.
    assert with_widths(0.0, 0.0, 0.02, 0.03, 50.0, None).limit == pytest.approx(
        0.03 * 10.8859 / 4.30265, rel=1e-5
    )
    assert with_widths(0.0, 0.0, None, None, None, None).limit is None


def test_an_entry_says_how_its_settings_were_chosen():
    said = [Entry("p", (), {"tune": 8, "finalists": best, "more_seeds": best}).tuned_with for best in (0, 2)]
    assert said == [
        "8 tried settings per row",
        "8 tried settings per row, the best 2 of them with 2 seeds more",
    ]
    assert Entry("p", (), {"tune": 8}).tuned_with == said[0]  # from before there were finalists


def test_rates_at_the_end_of_what_was_tried_are_named(tmp_path):
    def with_ends(*ends):
        found = entry("p", GAINS[0])
        rows = tuple({**row, "rate_at_the_end": row["method"] in ends} for row in found.rows)
        return replace(found, rows=rows)

    said = (
        "a, b and tuned sum have a learning rate at the end of what was tried; a better one may lie beyond."
    )
    several = with_ends("a", "b", "tuned sum")
    assert several.at_the_end == said
    assert said in write_board(tmp_path / "board.html", Board.of([several])).read_text()
    assert with_ends("a").at_the_end.startswith("a has a learning rate at the end")
    assert with_ends().at_the_end == entry("p", GAINS[0]).at_the_end == ""


def wide(found, half_width):
    """With this half width of every method against the tuned sum, but for one that went wrong."""
    widths = {"b": 50.0}
    rows = [
        {**row, "change_against_tuned_sum_half_width": widths.get(row["method"], half_width)}
        for row in found.rows
    ]
    return replace(found, rows=tuple(rows))


def test_a_problems_table_says_what_was_chosen_and_hides_the_last_of_many_options(tmp_path):
    gains = {"equal": 0.0, "a": 0.02, "none": None, "tuned sum": 0.03}
    many = [f"loss {i}={i}" for i in range(139)]
    settings = {"a": "a:k=0.5:optimizer.lr_factor=3", "none": None, "tuned sum": "static:" + ":".join(many)}
    rows = tuple({**row, "setting": settings.get(row["method"], "equal")} for row in entry("p", gains).rows)
    page = write_board(tmp_path / "board.html", Board.of([replace(entry("p", gains), rows=rows)])).read_text()
    cells = re.findall(r'<td class="words">(.*?)</td>', page, re.DOTALL)
    equal, a, none, tuned = (each.strip() for each in cells)
    assert (equal, a, none) == ("as it is", "learning rate × 3, k=0.5", "–")
    first, _, hidden = tuned.partition("<details>")
    assert first == ", ".join(many[:16]) + ", and 123 more"
    assert hidden == f"<summary>all 139</summary>{', '.join(many)}</details>"


def test_entries_are_written_read_and_drawn(tmp_path):
    entries = [entry("<b>p</b>", GAINS[0]), entry("q", GAINS[1])]
    for number, each in enumerate(entries):
        each.write(tmp_path / f"{number}.json")
    assert read_entries(tmp_path) == entries
    page = write_board(tmp_path / "board.html", Board.of(entries)).read_text()
    assert "<b>p</b>" not in page
    assert "&lt;b&gt;p&lt;/b&gt;" in page
    assert "Mean rank over the problems: tuned sum 1.25" in page
    (tmp_path / "2.json").write_text('{"format": 1}')
    with pytest.raises(LabError, match=r"2\.json is damaged"):
        read_entries(tmp_path)


@pytest.mark.parametrize("name", sorted(path.name for path in RESULTS.glob("*.tar.xz")))
def test_a_committed_entry_is_what_its_committed_trials_say(name, tmp_path):
    problem = name.removesuffix(SUFFIX)
    unpack(RESULTS / name, tmp_path / problem)
    committed = {entry.problem: entry for entry in read_entries(RESULTS)}
    if problem not in committed:
        assert not (tmp_path / problem / "study.json").exists()  # its rows are still tuned
        return
    results = ComparedMethods.read(tmp_path / problem)
    found = Entry.of(results, recipe_named(problem).summary, committed[problem].run["tune"])
    found.write(tmp_path / "entry.json")
    assert (tmp_path / "entry.json").read_bytes() == (RESULTS / f"{problem}.json").read_bytes()
