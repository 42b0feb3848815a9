"""The search at equal budget: spaces, rounds, the folder, and what is chosen."""

import io
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from manyloss import lab
from manyloss.lab.analysis.tuning import read_tuning
from manyloss.lab.arms import choose_arm
from manyloss.lab.experiment import trained_alone
from manyloss.lab.runs import storage
from manyloss.lab.runs.source import Source
from manyloss.lab.spaces import SumSpace, ask
from manyloss.lab.sweep import simplex
from manyloss.lab.tuning import (
    FIRST_FACTORS,
    MORE_SEEDS,
    TUNED_SUM,
    TUNING_SEED,
    Setting,
    Tuning,
    finalists_of,
)
from tests.lab.runs.test_trial import PROBLEM, lines
from tests.lab.small_problem import DigitAndInk, digit_accuracy

SOURCE = Source(PROBLEM)
LR = {"optimizer.lr_factor": (0.1, 10.0)}


def ended(tuning, arm, digit, status="finished", seed=TUNING_SEED):
    """Write what a trial of this arm would have written."""
    root = tuning.root if seed == TUNING_SEED else finalists_of(tuning.root)
    folder = storage.trial_folder(root, arm, seed)
    storage.make_folder(folder)
    found = {"digit/accuracy": digit, "ink/mean squared error": 0.1}
    epoch = {"epoch": 1, "train": {"digit": 2.0, "ink": 0.1}, "validation": {"metrics": found}}
    storage.append_lines(folder / "epochs.jsonl", [epoch])
    result = {"status": status, "reason": None, "validation": found, "test": {}, "seconds": 2.0}
    storage.write_json(folder / "result.json", result)


def run_all(root, settings=6, killed_after=None, unlucky=lambda arm, seed: None, methods=("pcgrad",)):
    """Ask and end everything; accuracy grows with the learning rate. With a new object for every round.

    ``unlucky`` gives what a finalist reaches with a further seed, "diverged", or None for the same.
    """
    rounds = 0
    while True:
        tuning = Tuning(SOURCE, methods, root, settings=settings, prune=False)
        missing = [each for each in tuning.asked() if tuning._result(each.arm) is None]
        for each in missing:
            factor = choose_arm(each.arm, tuning.problem).optimizer.lr_factor
            status = "diverged" if factor > 5 else "finished"
            ended(tuning, each.arm, 0.5 + 0.05 * math.log10(factor), status)
        if not missing and not tuning.next_round():
            for arm in tuning.finalists():
                for seed in MORE_SEEDS:
                    factor = choose_arm(arm, tuning.problem).optimizer.lr_factor
                    found = unlucky(arm, seed) or 0.5 + 0.05 * math.log10(factor)
                    if found == "diverged":
                        ended(tuning, arm, 0.5, "diverged", seed)
                    else:
                        ended(tuning, arm, found, seed=seed)
            tuning.choose()
            return tuning
        rounds += 1
        if rounds == killed_after:
            return tuning


def test_every_row_gets_the_same_number_and_the_best_that_finished_is_chosen(tmp_path):
    tuning = run_all(tmp_path / "a", settings=7)
    assert set(tuning.searched) == {"equal", "pcgrad", TUNED_SUM}
    for row in tuning.searched.values():
        assert len({setting.arm for setting in row.settings}) == 7
        factors = [choose_arm(s.arm, tuning.problem).optimizer.lr_factor for s in row.settings]
        chosen = choose_arm(row.chosen, tuning.problem).optimizer.lr_factor
        assert chosen == max(factor for factor in factors if factor <= 5)
    assert tuning.searched["equal"].settings[0].arm == "equal"
    first = [
        [choose_arm(s.arm, tuning.problem).optimizer.lr_factor for s in row.settings[:5]]
        for row in tuning.searched.values()
    ]
    assert first == [[1.0, *FIRST_FACTORS]] * 3  # no row is lucky
    _, *in_first_round, own_scale, drawn = tuning.searched[TUNED_SUM].settings
    for setting, factor in zip(in_first_round, FIRST_FACTORS, strict=True):
        assert setting.arm == f"static:optimizer.lr_factor={factor:g}"  # all weights 1
        assert setting.drawn == {"optimizer.lr_factor": factor}
    # All losses of one size, at the best rate that finished: 8 times the rate did not.
    assert own_scale.arm == "static:digit=0.09524:ink=1.905:optimizer.lr_factor=3"
    assert "optimizer.weight_decay" in drawn.arm
    assert "digit=" in drawn.arm


@pytest.mark.parametrize("unlucky", [0.3, "diverged"])
def test_the_best_two_of_a_row_are_told_by_more_seeds(tmp_path, unlucky):
    lucky = run_all(tmp_path / "a")
    best, second = lucky.searched["pcgrad"].finalists
    assert lucky.searched["pcgrad"].chosen == best
    all_gains = {s.arm: lucky.gain_of(s) for s in lucky.searched["pcgrad"].settings}
    gains = {arm: gained for arm, gained in all_gains.items() if gained is not None}
    assert [best, second] == sorted(gains, key=gains.get, reverse=True)[:2]
    again = run_all(tmp_path / "b", unlucky=lambda arm, seed: unlucky if arm == best else None)
    assert again.searched["pcgrad"].finalists == [best, second]
    assert again.searched["pcgrad"].chosen == second
    assert again.searched["equal"].chosen == lucky.searched["equal"].chosen
    assert again.finalists() == []  # all is chosen
    row = read_tuning(tmp_path / "b")["pcgrad"]
    assert (row.trials, row.more_seeds, [each.arm for each in row.finalists]) == (6, 2, [best, second])
    assert row.finalists[0].status == ("finished" if unlucky == 0.3 else "diverged")
    assert row.best == pytest.approx(gains[second])
    assert row.seconds == pytest.approx(10 * 2.0)


def test_a_row_with_one_setting_that_finished_has_no_finalists(tmp_path):
    tuning = run_all(tmp_path, settings=1)
    assert tuning.finalists() == []
    assert not finalists_of(tmp_path).exists()
    assert {row.chosen for row in tuning.searched.values()} == {"equal", "pcgrad", "static"}
    assert read_tuning(tmp_path)["pcgrad"].more_seeds == 0


def test_where_every_finalist_fails_the_first_of_them_is_compared(tmp_path):
    row = run_all(tmp_path, unlucky=lambda arm, seed: "diverged").searched["pcgrad"]
    assert row.chosen == row.finalists[0]


@pytest.mark.parametrize("better", [True, False])
def test_the_sum_has_equal_weights_at_their_best_rate_too(tmp_path, better):
    tuning = run_all(tmp_path)
    last_of_equal = tuning.searched["equal"].settings[5].arm
    ended(tuning, last_of_equal, 0.9 if better else 0.1)
    for row in tuning.searched.values():
        row.chosen, row.settings = None, row.settings[:6]
    tuning.write()
    again = run_all(tmp_path)
    settings = [each.arm for each in again.searched[TUNED_SUM].settings]
    assert settings[6:] == ([last_of_equal.replace("equal", "static")] if better else [])
    assert len(again.searched["equal"].settings) == len(again.searched["pcgrad"].settings) == 6


def test_the_sum_gets_no_setting_that_it_has(tmp_path):
    tuning = run_all(tmp_path)
    for arm in ("equal", "static"):
        ended(tuning, arm, 0.95)  # the default is the best of both rows
    for row in tuning.searched.values():
        row.chosen, row.settings = None, row.settings[:6]
    tuning.write()
    again = run_all(tmp_path).searched
    assert (again["equal"].chosen, again[TUNED_SUM].chosen) == ("equal", "static")
    assert len(again[TUNED_SUM].settings) == 6


def test_weights_are_drawn_evenly_after_a_first_round_of_equal_ones():
    """The first round tells the search of learning rates, and of nothing that it did not draw."""
    space = SumSpace("static", {}, LR, {"digit": 1.0, "ink": 1.0})
    rates = [10 ** (place / 5 - 1) for place in range(11)]
    tried = [({"optimizer.lr_factor": rate}, math.log10(rate)) for rate in rates]
    drawn = [each for seed in range(10) for each in ask(space, tried, 10, seed)]
    shares = [choose_arm(space.text(each), DigitAndInk()).options["digit"] / 2 for each in drawn]
    assert sum((share - 0.5) ** 2 for share in shares) / 100 == pytest.approx(1 / 12, abs=0.03)
    assert sum(each["optimizer.lr_factor"] > 1 for each in drawn) > 65  # at random it would be 50


def test_a_setting_says_what_its_trial_needs():
    problem = SOURCE.load()
    assert Setting.of(choose_arm("gradnorm-static:alpha=0.5", problem), problem).needs == [
        "gradnorm:alpha=0.5"
    ]
    assert Setting.of(choose_arm("pcgrad", problem), problem).needs == []


def test_a_search_that_was_stopped_asks_the_same(tmp_path):
    run_all(tmp_path / "a")
    run_all(tmp_path / "b", killed_after=2)
    run_all(tmp_path / "b")
    whole, stopped = (storage.read_json(tmp_path / name / "tuning.json") for name in "ab")
    assert whole == stopped


def test_a_row_that_is_searched_anew_asks_again_and_the_others_are_kept(tmp_path):
    before = run_all(tmp_path).searched
    tuning = Tuning(SOURCE, ["pcgrad"], tmp_path, settings=6, prune=False, retune=["pcgrad"])
    assert tuning.searched["pcgrad"].settings == []
    assert tuning.searched["pcgrad"].chosen is None
    assert all(tuning.searched[label] == before[label] for label in ("equal", TUNED_SUM))
    while tuning.next_round():  # nothing is to be trained: the same is asked for
        assert all(tuning._result(each.arm) is not None for each in tuning.asked())
    tuning.choose()
    assert tuning.searched == before


def test_average_weights_have_the_setting_of_their_method(tmp_path):
    before = run_all(tmp_path).searched
    tuning = run_all(tmp_path, methods=["pcgrad", "pcgrad-static"])
    row = tuning.searched.pop("pcgrad-static")
    assert row.settings == []
    assert row.chosen == before["pcgrad"].chosen.replace("pcgrad", "pcgrad-static")
    assert tuning.searched == before
    again = read_tuning(tmp_path)["pcgrad-static"]
    assert (again.trials, again.best, again.seconds) == (0, None, 0.0)
    assert not again.at_the_end
    # What is chosen anew for the method is taken, too.
    tuning = Tuning(SOURCE, ["pcgrad", "pcgrad-static"], tmp_path, settings=6, prune=False, retune=["pcgrad"])
    while tuning.next_round():
        assert not tuning.searched["pcgrad-static"].settings
    other = tuning.searched["pcgrad"].finalists[1]
    tuning.searched["pcgrad"].finalists = [other]
    for seed in MORE_SEEDS:
        ended(tuning, other, 0.9, seed=seed)
    tuning.choose()
    assert tuning.searched["pcgrad-static"].chosen == other.replace("pcgrad", "pcgrad-static")


def test_average_weights_without_their_methods_row_are_searched(tmp_path):
    row = run_all(tmp_path, methods=["pcgrad-static"]).searched["pcgrad-static"]
    assert len(row.settings) == 6
    assert {setting.needs[0].partition(":")[0] for setting in row.settings} == {"pcgrad"}


def test_a_row_that_is_not_there_cannot_be_searched_anew(tmp_path):
    with pytest.raises(lab.LabError, match=r"--retune: there is no row 'pcgard'. Did you mean 'pcgrad'"):
        Tuning(SOURCE, ["pcgrad"], tmp_path, settings=6, prune=False, retune=["pcgard"])
    assert not (tmp_path / "tuning.json").exists()


def test_a_row_that_was_searched_over_less_is_named(tmp_path):
    run_all(tmp_path)
    assert Tuning(SOURCE, ["pcgrad"], tmp_path, settings=6, prune=False).outdated() == []
    known = storage.read_json(tmp_path / "tuning.json")
    known["rows"].append({**known["rows"][1], "label": "cagrad", "arm": "cagrad"})  # before c was searched
    storage.write_json(tmp_path / "tuning.json", known)
    assert Tuning(SOURCE, ["pcgrad"], tmp_path, settings=6, prune=False).outdated() == [
        "cagrad was tuned over optimizer.lr_factor, and would be over c, optimizer.lr_factor now: "
        "--retune cagrad searches it anew."
    ]


def test_another_number_of_settings_is_refused(tmp_path):
    run_all(tmp_path, settings=2)
    with pytest.raises(lab.LabError, match=r"settings was 2, now 3"):
        Tuning(SOURCE, ["pcgrad"], tmp_path, settings=3, prune=False)


def test_when_nothing_finishes_the_default_is_compared(tmp_path):
    tuning = Tuning(SOURCE, [], tmp_path, settings=2, prune=False)
    while tuning.next_round():
        for each in tuning.asked():
            ended(tuning, each.arm, 0.5, "crashed")
    tuning.choose()
    assert tuning.searched["equal"].chosen == "equal"


@pytest.mark.parametrize("losses", [2, 3, 5])
def test_the_sweep_covers_the_simplex_the_centre_first(losses):
    points = simplex(losses)
    assert points[0] == pytest.approx([1 / losses] * losses)
    assert all(sum(point) == pytest.approx(1) and min(point) > 0 for point in points)
    assert len(set(points)) == len(points)
    for corner in range(losses):
        assert max(point[corner] for point in points) >= 0.8
    assert points == simplex(losses)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"tune": -1}, r"--tune '-1' is not understood"),
        ({"prune": True}, r"--prune stops settings that are tried by --tune"),
        ({"retune": "pcgrad"}, r"--retune searches rows anew that --tune has searched"),
        ({"tune": 2, "retune": "pcgard"}, r"there is no row 'pcgard'. Did you mean 'pcgrad'"),
        ({"pareto": "digit/accuracy"}, r"is one metric, and a trade-off is between two or more"),
        ({"pareto": "digit/accuracy,ink"}, r"there is no metric 'ink'. Known: digit/accuracy"),
        ({"tune": 2, "seeds": [TUNING_SEED]}, r"The seed 1000000 is that of the settings"),
        ({"tune": 2, "seeds": [0, MORE_SEEDS[1]]}, r"The seed 1000002 is that of the settings"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(tmp_path, asked, said):
    with pytest.raises(lab.LabError, match=said):
        lab.compare(DigitAndInk, ["pcgrad"], out=tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()


def test_gradients_are_measured_in_the_table_and_not_beside_it(tmp_path):
    lab.compare(PROBLEM, ["pcgrad"], tune=1, seeds=1, epochs=1, single_task=True, out=tmp_path)
    parts = ("tuning/", "single/", "")
    steps = [list(tmp_path.glob(f"{part}trials/*/*/steps.jsonl")) for part in parts]
    cosines = [[lines(path)[0]["cosines"] is None for path in paths] for paths in steps]
    assert cosines == [[True] * 3, [True] * 2, [False] * 3]


def test_a_comparison_says_whose_setting_average_weights_have(tmp_path):
    said = Console(file=io.StringIO(), width=200)
    options = {"tune": 2, "seeds": 1, "epochs": 1, "jobs": 1, "out": tmp_path / "run", "console": said}
    found = lab.compare(PROBLEM, ["cagrad", "cagrad-static"], **options)
    planned = "3 rows x 2 settings tried, the best 2 with 2 more seeds, then 4 rows x 1 seed"
    assert planned in " ".join(said.file.getvalue().split())
    rows = {row["method"]: row for row in found.rows()}
    assert list(rows) == ["equal", "cagrad", "cagrad-static", "tuned sum"]
    assert rows["cagrad-static"]["setting"] == rows["cagrad"]["setting"].replace("cagrad", "cagrad-static")
    assert [row["tuning_trials"] for row in rows.values()] == [2, 2, 0, 2]
    text = " ".join(str(found).split())
    assert "Tuned with 2 settings per row" in text
    assert "; the setting of the method whose average weights it holds." in text


@pytest.mark.slow
def test_everything_together_killed_and_gone_on(tmp_path):
    """A comparison with all its parts: killed in the tuning and gone on, it ends as one that never was."""
    asked = [
        "--methods",
        "pcgrad",
        "--tune",
        "6",
        "--prune",
        "--seeds",
        "3",
        "--epochs",
        "1",
        "--single-task",
    ]
    asked += ["--pareto", "digit/accuracy,ink/mean squared error"]
    command = [sys.executable, "-c", "from manyloss.cli import main; main()", "compare", PROBLEM, *asked]
    stopped = subprocess.Popen([*command, "--out", "stopped"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    trials = tmp_path / "stopped" / "tuning" / "trials"
    while stopped.poll() is None and len(list(trials.glob("*/*/result.json"))) < 5:
        time.sleep(0.1)
    assert stopped.poll() is None
    os.kill(stopped.pid, signal.SIGKILL)
    stopped.wait()
    for out in ("stopped", "whole"):
        done = subprocess.run(
            [*command, "--out", out], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "6 settings tried, the best 2 with 2 more seeds, then 3 rows x 3 seeds" in " ".join(
            done.stdout.split()
        )
        # The advice for a damaged file holds: without tuning.json everything is found again.
        (tmp_path / out / "tuning" / "tuning.json").rename(tmp_path / f"{out}.json")
        again = subprocess.run(
            [*command, "--out", out], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert again.returncode == 0, again.stderr
        assert " 0 trials to run" in " ".join(again.stdout.split())
        assert (tmp_path / out / "tuning" / "tuning.json").read_text() == (
            tmp_path / f"{out}.json"
        ).read_text()
    assert (tmp_path / "stopped.json").read_text() == (tmp_path / "whole.json").read_text()
    whole, gone_on = (lab.report(tmp_path / out) for out in ("whole", "stopped"))
    keep = ("method", "change", "setting", "digit/accuracy", "delta_m", "front", "tuning_trials")
    assert [[row.get(k) for k in keep] for row in whole.rows()] == [
        [row.get(k) for k in keep] for row in gone_on.rows()
    ]
    with pytest.raises(lab.LabError, match=r"tuned was .*now None"):
        lab.compare(PROBLEM, ["pcgrad"], seeds=3, epochs=1, out=tmp_path / "whole")


def test_losses_without_a_metric_are_not_trained_alone():
    without = type("InkHasNone", (DigitAndInk,), {"metrics": {"digit": digit_accuracy}})
    assert trained_alone(DigitAndInk()) == ("digit", "ink")
    assert trained_alone(without()) == ("digit",)
