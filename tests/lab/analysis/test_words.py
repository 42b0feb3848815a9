"""Texts in a table: a number that needs a word is never shown without it."""

import io
import json

import pytest
from rich.console import Console

from manyloss.lab.analysis.table import read_table
from manyloss.lab.analysis.terminal import print_table
from manyloss.lab.runs.storage import trial_folder
from tests.lab.run_folders import make_run

ARMS = ("equal", "gradnorm", "mgda")


@pytest.fixture
def run_with_words(tmp_path):
    folder = make_run(tmp_path / "run", arms=ARMS, tasks=[f"attack {i:02}" for i in range(14)], seeds=3)
    for arm in ARMS:
        for seed in range(3):
            path = trial_folder(folder, arm, seed) / "result.json"
            result = json.loads(path.read_text())
            hides = arm == "mgda" or (arm == "gradnorm" and seed == 1)
            result["words"] = {"masking": "suspected" if hides else "no sign"}
            if hides:
                result["remarks"] = ["masking suspected: noise is stronger"]
            if arm == "mgda":
                result["warnings"] = {"The logits drift.": 40 + seed}
            path.write_text(json.dumps(result))
    return folder


def printed(folder, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_table(read_table(folder), console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [100, 80])
def test_words_have_a_column_and_stand_below_the_metrics_too(run_with_words, width):
    lines = printed(run_with_words, width).splitlines()
    first = next(line for line in lines if line.startswith("mgda "))
    assert "suspected" in first
    below = [line for line in lines if line.startswith("masking ")]
    assert len(below) == 1
    assert "no sign" in below[0]
    assert any(line.startswith("attack 13 ") for line in lines), "fourteen metrics are shown"


def test_seeds_that_disagree_are_counted(run_with_words):
    rows = {row.arm: row for row in read_table(run_with_words).rows}
    assert rows["equal"].words == {"masking": "no sign"}
    assert rows["gradnorm"].words == {"masking": "no sign 2/3, suspected 1/3"}
    assert rows["mgda"].words == {"masking": "suspected"}


def test_remarks_name_their_arm_and_the_seeds_where_they_differ(run_with_words):
    table = read_table(run_with_words)
    assert table.remarks == [
        "gradnorm: masking suspected: noise is stronger (seed 1)",
        "mgda: masking suspected: noise is stronger",
        "mgda: The logits drift. (warned 40 to 42 times in training)",
    ]
    text = " ".join(printed(run_with_words, 100).split())
    assert "• mgda: The logits drift. (warned 40 to 42 times in training)" in text


def test_runs_without_words_have_no_such_column(tmp_path):
    table = read_table(make_run(tmp_path / "run", arms=ARMS, seeds=2, epochs=2))
    assert table.word_columns == []
    assert table.remarks == []
