"""Step times against the baseline, in turns."""

import itertools

import pytest
import torch

from manyloss.lab.runs import storage, timing
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.study import Study
from manyloss.lab.runs.trial import Trial
from tests.lab.runs.test_trial import PROBLEM

SLOW = """
from tests.lab.small_problem import DigitAndInk
from manyloss.lab import Arm

class Slow(DigitAndInk):
    name = "slow"
    pause = 0.0
    arms = {"slow": Arm("slow", "Waits in every step.", problem={"pause": 0.06}),
            "twin": Arm("twin", "Changes nothing."), **DigitAndInk.arms}
    def __init__(self):
        super().__init__()
        del self.pause
"""


@pytest.fixture
def study(tmp_path):
    """Trials of one epoch that have finished, as far as they can."""
    (tmp_path / "slow.py").write_text(SLOW)
    source = Source(str(tmp_path / "slow.py"))
    study = Study.plan(source, ["slow", "twin", "explode"], [0], tmp_path / "run", epochs=1)
    for spec in study.trials():
        if spec.arm != "slow":
            Trial(spec).run()
        else:  # it would take a second: what it measured does not matter here
            storage.make_folder(spec.folder)
            storage.write_json(spec.folder / "result.json", {"status": "finished", "reason": None})
    return study


def test_a_slow_arm_is_slow_and_a_twin_is_not(study):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    timing.time_the_steps(study)
    ratios = storage.read_json(study.root / "step_time.json")["ratios"]
    assert ratios["equal"] == 1.0
    assert ratios["slow"] > 1.5
    assert 0.5 < ratios["twin"] < 2
    assert "explode" not in ratios  # it has no finished trial
    assert torch.equal(before, torch.get_rng_state())
    written = (study.root / "step_time.json").stat().st_mtime_ns
    timing.time_the_steps(study)
    assert (study.root / "step_time.json").stat().st_mtime_ns == written


def test_steps_that_another_process_interrupts_do_not_count():
    class Stepper:
        def __init__(self, *milliseconds):
            self.milliseconds = itertools.cycle(milliseconds)

        def step(self):
            return next(self.milliseconds)

    # Most of the long steps are interrupted, and few of the short ones: a median would say 7.
    assert timing._ratio(Stepper(7.0, 8.0, 3.0, 7.0), Stepper(1.0, 1.0, 1.0, 5.0)) == 3.0


def test_what_was_started_and_not_finished_is_not_tried_again(study):
    storage.write_json(study.root / "step_time.json", {"ratios": dict.fromkeys(["equal", "slow", "twin"])})
    timing.time_the_steps(study)
    assert set(storage.read_json(study.root / "step_time.json")["ratios"].values()) == {None}


def test_nothing_is_timed_before_it_has_finished(tmp_path):
    study = Study.plan(Source(PROBLEM), ["equal"], [0], tmp_path / "run", epochs=1)
    timing.time_the_steps(study)  # nothing has finished: nothing is written
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_trials_of_a_gpu_are_not_timed_without_one(study, monkeypatch):
    monkeypatch.setattr(study, "device", "cuda")
    timing.time_the_steps(study)
    assert not (study.root / "step_time.json").exists()
