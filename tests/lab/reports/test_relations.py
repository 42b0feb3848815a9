"""A metric against another one is a scatter with its rank correlation; against an option, a line of means."""

import json

import pytest

from manyloss.lab.analysis.results import read_run
from manyloss.lab.reports.looks import styles_of
from manyloss.lab.reports.relations import FIRST_SIGMA, draw_relations
from manyloss.lab.runs.storage import trial_folder
from tests.lab.reports.test_report import Page, report_of
from tests.lab.run_folders import make_run

ARMS = ("equal", "gradnorm:alpha=0", "gradnorm")
ALPHA = {"gradnorm:alpha=0": 0.0, "gradnorm": 1.5}


@pytest.fixture
def run(tmp_path):
    folder = make_run(tmp_path / "run", arms=ARMS, seeds=3, epochs=2)
    for arm, alpha in ALPHA.items():
        for seed in range(3):
            trial = trial_folder(folder, arm, seed)
            result = json.loads((trial / "result.json").read_text())
            result["test"] |= {"gain": alpha / 10 + seed / 100, "distance": -alpha - seed}
            (trial / "result.json").write_text(json.dumps(result))
            settings = json.loads((trial / "settings.json").read_text())
            (trial / "settings.json").write_text(json.dumps({**settings, "options": {"alpha": alpha}}))
    return folder


def relations(folder, drawn_against):
    study = json.loads((folder / "study.json").read_text()) | {"drawn_against": drawn_against}
    (folder / "study.json").write_text(json.dumps(study))
    record = read_run(folder)
    return draw_relations(record, styles_of(record.arms, "equal"))


def test_against_an_option_a_line_through_the_means(run):
    (panel,) = relations(run, {"gain": "alpha"})
    assert panel.title == "gain against alpha"
    assert panel.told == "gain against alpha. alpha 0: +0.01; alpha 1.5: +0.16."
    page = Page(report_of(run))
    assert "What goes with what" in page.words()
    assert [found["aria-label"] for found in page.all("div", **{"class": "plot relations"})] == [panel.told]


def test_against_a_metric_a_point_per_trial_and_the_rank_correlation(run):
    (panel,) = relations(run, {"gain": "distance"})
    assert panel.note == ("6 trials, rank correlation \u22120.94 (95% interval \u22121.00 to \u22120.38)")
    assert panel.figure.count('"x":[0.0,-1.0,-2.0]') + panel.figure.count('"x":[-0.0,-1.0,-2.0]') == 1


def test_against_the_spread_of_the_cosines_in_the_first_epoch(run):
    for seed in range(3):
        trial = trial_folder(run, "equal", seed)
        result = json.loads((trial / "result.json").read_text())
        result["test"]["gain"] = 0.3 - seed / 10
        spread = {"cosine_std_first_epoch": {"a, b": 0.1 * seed, "a, c": 0.3 * seed}}
        (trial / "result.json").write_text(json.dumps(result | spread))
    (panel,) = relations(run, {"gain": FIRST_SIGMA})
    assert panel.note.startswith("3 trials, rank correlation \u22121.00")
    assert '"x":[0.0,0.2,0.4]' in panel.figure


def test_no_relation_no_section(run):
    assert relations(run, {}) == []
    assert relations(run, {"gain": "nothing"}) == []
    assert "What goes with what" not in Page(report_of(run)).words()
