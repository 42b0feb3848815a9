"""The table of a tuned comparison: two baselines, what the tuning cost, the front, single tasks, times."""

import json
import shutil
from dataclasses import replace

import pytest

from manyloss.lab import LabError
from manyloss.lab.analysis.comparison import ComparedMethods
from manyloss.lab.analysis.results import read_run
from manyloss.lab.analysis.table import make_table
from manyloss.lab.analysis.terminal import render_text
from manyloss.lab.analysis.tuning import end_of, options_in_words, words_of_setting
from manyloss.lab.runs.storage import trial_folder
from tests.lab.run_folders import TUNED


def test_rows_are_called_by_their_method_and_read_from_their_setting(tuned_run):
    run = read_run(tuned_run)
    assert run.arms == ("equal", "pcgrad", "tuned sum")
    assert run.baseline == "equal"
    assert run.finished("pcgrad")[0].folder == trial_folder(tuned_run, TUNED["pcgrad"], 0)
    assert run.tuning["pcgrad"].words == "learning rate × 0.5"
    assert dict(run.tuning["pcgrad"].ended) == {"finished": 2, "diverged": 1}
    assert [each.arm.partition("=")[2] for each in run.tuning["pcgrad"].settings] == ["", "0.5", "9"]
    assert run.tuning["pcgrad"].at_the_end  # no smaller rate was tried
    assert replace(run.tuning["pcgrad"], chosen="pcgrad:optimizer.lr_factor=9:x=1").at_the_end
    assert not replace(run.tuning["pcgrad"], chosen="pcgrad").at_the_end
    assert run.summaries["tuned sum"].startswith("What static")


@pytest.mark.parametrize(
    ("rate", "tried", "end"),
    [(8, (1, 3, 8), 1), (7.6, (1, 7.6, 8), 1), (7, (1, 7, 8), 0), (1, (1, 3), -1), (2, (2, 2.1), 0)],
)
def test_ends_of_what_was_tried(rate, tried, end):
    assert end_of(rate, tried) == end


def test_a_setting_in_words_has_the_optimizers_options_first_and_of_many_the_first():
    arm = "gradnorm:alpha=0.5:optimizer.lr_factor=3:optimizer.weight_decay=1e-05"
    assert words_of_setting(arm) == "learning rate × 3, weight decay 1e-05, alpha=0.5"
    assert words_of_setting("single:ink") == "ink"
    assert words_of_setting("gradnorm:initial={'a': 1.0}:lr=0.1") == "initial={'a': 1.0}, lr=0.1"
    assert words_of_setting("static:a:b=0.5:optimizer.lr_factor=3") == "learning rate × 3, a:b=0.5"
    assert words_of_setting("equal") == "as it is"
    arm = "static:" + ":".join(f"school {i:03d}={i}" for i in range(20)) + ":optimizer.lr_factor=3"
    words = words_of_setting(arm)
    assert words.startswith("learning rate × 3, school 000=0, ")
    assert words.endswith("school 014=14, and 5 more")
    assert len(options_in_words(arm)) == 21


def test_every_verdict_is_against_equal_weights_and_against_the_tuned_sum(tuned_run):
    table = make_table(read_run(tuned_run))
    pcgrad = table.rows[1]
    assert (pcgrad.comparison.outcome, pcgrad.against_sum.outcome) == ("better", "worse")
    assert pcgrad.comparison.change.mean == pytest.approx((0.02 / 0.8 + 0.01 / 0.7) / 2, rel=0.05)
    assert "against equal weights" in pcgrad.sentence
    assert "against the tuned sum" in pcgrad.sentence
    assert "pcgrad and tuned sum beat equal weights beyond noise." in table.verdict
    assert "equal and pcgrad are worse than the tuned sum beyond noise." in table.verdict


def test_that_one_seed_says_nothing_is_said_once(tuned_run):
    run = read_run(tuned_run)
    one = replace(run, trials=tuple(trial for trial in run.trials if trial.seed == 0))
    assert make_table(one).verdict.count("One seed cannot tell a difference from noise") == 1


def test_the_cost_stands_in_table_words_and_rows(tuned_run):
    text = " ".join(render_text(make_table(read_run(tuned_run))).split())
    assert "3 in 3 min 0 s" in text
    assert "Tuned with 3 settings per row, chosen on validation with a seed of their own: 9 trials" in text
    assert (
        "pcgrad: learning rate × 0.5 (+5.0% on validation against untuned equal); 1 diverged; the learning "
        "rate is at the end of what was tried, and a better one may lie beyond."
    ) in text
    row = ComparedMethods.read(tuned_run).rows()[1]
    assert (row["tuning_trials"], row["tuning_hours"]) == (3, pytest.approx(0.05))
    assert row["rate_at_the_end"] is True
    assert row["setting"] == TUNED["pcgrad"]
    assert row["outcome_against_tuned_sum"] == "worse"
    assert (row["front"], row["front_distance"] < 0) == ("behind", True)
    assert row["delta_m"] == pytest.approx((0.02 / 0.8 + 0.01 / 0.7) / 2, rel=0.05)


def test_what_a_settings_trial_needs_is_a_cost_of_its_row(tuned_run, tmp_path):
    folder = shutil.copytree(tuned_run, tmp_path / "run")
    path = folder / "tuning" / "tuning.json"
    known = json.loads(path.read_text())
    row = next(row for row in known["rows"] if row["label"] == "pcgrad")
    needed = next(each["arm"] for row in known["rows"] if row["label"] == "equal" for each in row["settings"])
    for setting in row["settings"]:
        setting["needs"] = [needed, row["settings"][0]["arm"]]  # one's own setting is not counted again
    path.write_text(json.dumps(known))
    before, after = (read_run(each).tuning["pcgrad"] for each in (tuned_run, folder))
    cost = read_run(folder).tuning["equal"].settings[0].seconds
    assert cost > 0
    assert after.seconds == before.seconds + cost


def test_finalists_are_counted_with_their_further_seeds(tuned_run, tmp_path):
    run = shutil.copytree(tuned_run, tmp_path / "run")
    path = run / "tuning" / "tuning.json"
    tuning = json.loads(path.read_text())
    row = tuning["rows"][1]
    first, second, _ = [setting["arm"] for setting in row["settings"]]
    row["finalists"], row["chosen"] = [second, first], second
    path.write_text(json.dumps({**tuning, "more_seeds": [7, 8]}))
    for arm in row["finalists"]:
        for seed in (7, 8):
            found = trial_folder(run / "tuning" / "finalists", arm, seed)
            found.mkdir(parents=True)
            result = json.loads((trial_folder(run / "tuning", arm, 1_000_000) / "result.json").read_text())
            (found / "result.json").write_text(json.dumps({**result, "seconds": 10.0}))
    before, after = (read_run(folder).tuning["pcgrad"] for folder in (tuned_run, run))
    assert after.trials == before.trials == 3
    assert after.seconds == before.seconds + 40
    assert after.best == before.best
    text = " ".join(render_text(make_table(read_run(run))).split())
    said = "chosen on validation with a seed of their own (the best 2 of each with 2 seeds more)"
    assert f"Tuned with 3 settings per row, {said}: 13 trials" in text


def test_the_front_of_the_sum(tuned_run):
    table = make_table(read_run(tuned_run))
    (pcgrad,) = table.pareto.methods
    assert {point.name for point in table.pareto.sums} >= {"equal", "tuned sum", "static:left=1:right=1"}
    assert pcgrad.where == "behind"  # the tuned sum is a point of the front
    assert "No method leaves the front of the sum." in table.verdict
    assert table.front[0].startswith("pcgrad: ")
    assert "behind the front of the sum, 95% interval" in table.front[0]


def test_times_that_were_measured_in_turns_are_shown(tuned_run, finished_run):
    table = make_table(read_run(tuned_run))
    assert [row.comparison.step_time for row in table.rows] == [1.0, 1.5, None]
    assert "measured in turns in one process" in " ".join(render_text(table).split())
    assert "as the trials ran" in " ".join(render_text(make_table(read_run(finished_run))).split())


def test_a_comparison_without_tuning_says_nothing_about_it(finished_run):
    text = render_text(make_table(read_run(finished_run)))
    assert "tuned" not in text
    assert "Δm" not in text
    assert "front" not in text


@pytest.mark.parametrize("file", ["tuning/tuning.json", "pareto.json", "step_time.json", "sweep/study.json"])
def test_damaged_files_are_named(tuned_run, tmp_path, file):
    run = shutil.copytree(tuned_run, tmp_path / "run")
    (run / file).write_text('{"rows": [1], "metrics": 3, "ratios": [1]}')
    with pytest.raises(LabError, match=file):
        make_table(read_run(run))
