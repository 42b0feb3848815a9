import json
import shutil

import numpy as np
import pytest

from manyloss.lab.analysis.results import pairs_of, read_run, read_steps
from manyloss.lab.checks import LabError
from manyloss.lab.runs.storage import trial_folder


@pytest.fixture
def run_folder(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def test_a_run_is_read_as_it_was_planned(finished_run):
    run = read_run(finished_run)
    assert run.problem == "cosreg-two-digits"
    assert run.baseline == "equal"
    assert run.seeds == (0, 1, 2, 3, 4)
    assert [metric.name for metric in run.metrics] == ["left/accuracy", "right/accuracy"]
    assert [(trial.arm, trial.seed) for trial in run.trials][:6] == [("equal", s) for s in range(5)] + [
        ("gradnorm", 0)
    ]
    assert {trial.status for trial in run.trials} == {"finished"}
    assert len(run.trials[0].epochs) == 20


def test_statuses(mixed_run):
    run = read_run(mixed_run)
    status = {(trial.arm, trial.seed): trial.status for trial in run.trials}
    assert status["mgda", 1] == "diverged"
    assert status["gradnorm", 0] == "crashed"
    assert status["cosreg", 4] == "unfinished"
    assert status["pcgrad", 4] == "missing"
    assert status["equal", 0] == "finished"


def test_steps_are_arrays_by_loss_and_pair(finished_run):
    run = read_run(finished_run)
    trace = read_steps(run.trials[5], run.losses)
    assert trace.weights.shape == trace.norms.shape == trace.losses.shape == (200, 2)
    assert trace.cosines.shape == (200, 1)
    assert np.isfinite(trace.cosines).all()
    assert pairs_of("abc") == [(0, 1), (0, 2), (1, 2)]


def test_absent_losses_and_unmeasured_steps_are_nan(run_folder):
    run = read_run(run_folder)
    trial = run.trials[0]
    record = {"step": 1, "epoch": 1, "losses": {"right": 2.0}, "weights": {"right": None}, "norms": None}
    lines = [
        record | {"cosines": None, "names": ["right"]},
        record | {"step": 2, "cosines": [[1.0]], "names": ["right"]},
    ]
    (trial.folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trace = read_steps(trial, run.losses)
    assert np.isnan(trace.losses[:, 0]).all()
    assert trace.losses[:, 1].tolist() == [2.0, 2.0]
    assert np.isnan(trace.weights).all()
    assert np.isnan(trace.cosines).all()


def test_a_last_line_cut_by_a_kill_is_left_out(run_folder):
    path = trial_folder(run_folder, "equal", 0) / "epochs.jsonl"
    path.write_text(path.read_text()[:-40])
    trial = read_run(run_folder).trials[0]
    assert trial.status == "finished"
    assert len(trial.epochs) == 19


def test_a_line_cut_in_the_middle_is_damage(run_folder):
    path = trial_folder(run_folder, "equal", 0) / "epochs.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:30], *lines[2:]]))
    trial = read_run(run_folder).trials[0]
    assert trial.status == "damaged"
    assert "epochs.jsonl" in trial.reason
    assert "line 2" in trial.reason


def test_no_folder(tmp_path):
    with pytest.raises(LabError, match=r"There is no folder '.*nowhere'\. Give the folder that"):
        read_run(tmp_path / "nowhere")


def test_another_folder(tmp_path):
    with pytest.raises(LabError, match=r"is not a run folder: it has no study\.json\. Give the folder that"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"format": 1, "arms"', r"Expecting"),
        ("[]", r"holds a list, not an object"),
        ('{"format": 1}', r"'arms' is missing"),
        ('{"format": 1, "arms": ["equal"], "seeds": ["x"]}', r"invalid literal"),
    ],
)
def test_a_damaged_plan_names_the_file_and_the_way_out(run_folder, text, what):
    (run_folder / "study.json").write_text(text)
    with pytest.raises(
        LabError, match=rf"study\.json is damaged \({what}.*\)\. Delete the file .* run the command"
    ):
        read_run(run_folder)


def test_another_format(run_folder):
    study = json.loads((run_folder / "study.json").read_text())
    (run_folder / "study.json").write_text(json.dumps(study | {"format": 7}))
    with pytest.raises(LabError, match=r"has format 7; this version of manyloss reads format 1"):
        read_run(run_folder)
