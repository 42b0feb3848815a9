"""Every executor keeps the same folders: what one began, another finishes."""

from pathlib import Path

import pytest
import ray
from rich.console import Console

from manyloss.lab.checks import LabError
from manyloss.lab.runs import storage
from manyloss.lab.runs.execution import Execution
from manyloss.lab.runs.executors.choice import Lending, executor_named
from manyloss.lab.runs.executors.processes import Processes
from manyloss.lab.runs.progress import PlainDisplay
from manyloss.lab.runs.trial import Trial
from tests.lab.runs.test_study import plan, silent
from tests.lab.runs.test_trial import assert_same_trial, spec


def run(specs, executor):
    display = PlainDisplay(Console(quiet=True))
    display.plan(len(specs), [spec.epochs for spec in specs])
    return Execution(specs, {}, executor, display).run()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slrum", "There is no executor 'slrum'. Did you mean 'slurm'?"),
        ("processes:jobs=3", "'processes' does not take jobs: it has none; --jobs says how many"),
    ],
)
def test_what_is_unknown_is_named(text, message, tmp_path):
    with pytest.raises(LabError, match=message):
        executor_named(text, 1, tmp_path)


def test_processes_are_the_default(tmp_path):
    assert isinstance(executor_named("processes", 3, tmp_path), Processes)


def test_one_executor_is_lent_to_all_studies_and_closed_at_the_end(tmp_path):
    first, second = (plan(tmp_path / name, ["equal"], [0]) for name in ("first", "second"))
    with Lending("processes", tmp_path) as lending:
        first.run(silent(), executor=lending.to(first))
        owned = lending.to(first).owned
        (worker,) = owned._workers
        second.run(silent(), executor=lending.to(second))
        assert owned._workers == [worker]  # the same process, which has torch
        assert worker.process.poll() is None
    assert worker.process.poll() is not None
    assert owned._workers == []
    assert (first.missing(), second.missing()) == ([], [])
    with Lending("slurm: not asked for", tmp_path) as lending:
        assert lending.to(first, retry=True) is None  # nothing is missing


def test_crashed_trials_are_tried_again_on_the_executor_that_was_asked_for(tmp_path):
    study = plan(tmp_path / "run", ["equal"], [0])
    study.run(silent())
    result = study.trials()[0].folder / "result.json"
    storage.write_json(result, {"status": "crashed", "reason": "bad luck"})
    with Lending("slrum", tmp_path) as lending:
        assert lending.to(study) is None
        with pytest.raises(LabError, match="There is no executor 'slrum'"):
            lending.to(study, retry=True)


@pytest.mark.slow  # submitit looks at its jobs now and then
def test_slurm_runs_and_goes_on_after_a_loss(tmp_path):
    """With submitit's local cluster: the same job files, started as processes."""
    once = str(tmp_path / "was-killed")
    specs = [spec(tmp_path / "run", arm, once=once, epochs=2) for arm in ("killed-once", "fail")]
    results = run(specs, executor_named("slurm:cluster=local:timeout_min=5", 2, tmp_path / "run"))
    assert results["killed-once", 0]["status"] == "finished"
    assert results["fail", 0]["status"] == "crashed"
    assert "the fifth step is too much" in results["fail", 0]["reason"]
    assert Path(once).exists()
    here = spec(tmp_path / "here", "killed-once", once=once, epochs=2)
    Trial(here).run()
    assert_same_trial(here.folder, specs[0].folder)


def test_slurm_says_which_option_it_does_not_know(tmp_path):
    with pytest.raises(LabError, match="'slurm' does not take partitoin"):
        executor_named("slurm:cluster=local:partitoin=gpu", 1, tmp_path)


@pytest.mark.slow
def test_ray_runs_and_goes_on_when_a_worker_is_killed(tmp_path):
    """A cluster of two workers on this machine; one of them kills itself in the middle of a trial."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        once = str(tmp_path / "was-killed")
        specs = [spec(tmp_path / "run", arm, once=once, epochs=2) for arm in ("killed-once", "fail", "equal")]
        results = run(specs, executor_named("ray", 2, tmp_path / "run"))
    finally:
        ray.shutdown()
    assert results["killed-once", 0]["status"] == "finished"
    assert results["equal", 0]["status"] == "finished"
    assert results["fail", 0]["status"] == "crashed"
    assert Path(once).exists()
    here = spec(tmp_path / "here", "killed-once", once=once, epochs=2)
    Trial(here).run()
    assert_same_trial(here.folder, specs[0].folder)
