"""A user's own script as a trial: run by itself, run by the lab, killed, gone on, crashed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from manyloss import MultiLoss, lab
from manyloss.lab import scripts
from manyloss.lab.checks import BrokenScriptError
from manyloss.lab.runs import storage
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.trial import TrialSpec
from manyloss.lab.scripts import ScriptCall, declared_metrics, is_script
from manyloss.weighting import PCGrad

SCRIPT = Path(__file__).with_name("script_to_compare.py")
METRICS = ["val/rmse:min", "test/rmse:min"]


@pytest.fixture(autouse=True)
def _no_trial(monkeypatch):
    monkeypatch.delenv(scripts.VARIABLE, raising=False)
    scripts._session.cache_clear()
    yield
    scripts._session.cache_clear()


def test_by_itself_a_script_has_equal_weights(tmp_path):
    assert isinstance(lab.method(), MultiLoss)
    assert isinstance(lab.method("pcgrad").weighting, PCGrad)
    assert lab.seed(default=7) == 7
    assert lab.folder(tmp_path / "here") == tmp_path / "here"
    lab.log({"val/x": torch.tensor([0.5], requires_grad=True)}, epoch=1)
    assert list(tmp_path.rglob("*.jsonl")) == []
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--epochs", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_is_no_number_is_named():
    with pytest.raises(ValueError, match=r"lab.log: 'val/x' is a Tensor, not one number"):
        lab.log({"val/x": torch.ones(2)})
    with pytest.raises(ValueError, match="give higher_is_better=True or lower_is_better=True"):
        lab.metric("x")


@pytest.mark.parametrize("name", ["gradnorm-static", "clipping", "single:a"])
def test_methods_that_need_a_problem_are_refused(name):
    with pytest.raises(lab.LabError, match=r"cannot be given to a script|no method"):
        lab.method(name)


def test_scripts_are_known_by_their_text():
    text = SCRIPT.read_text()
    assert is_script(text)
    assert not is_script("import lab\nmethod()\n")
    assert dict(declared_metrics(text)) == {"val/rmse": False}
    assert ScriptCall.of(["a:b:max"], "", []).metrics == {"a:b": True}
    for wrong in ("val/x", "val/x:most", ":max"):
        with pytest.raises(lab.LabError, match="is not understood"):
            ScriptCall.of([wrong], "", [])


@pytest.mark.parametrize("tune", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_script_that_never_begins_is_given_up_at_once_and_leaves_nothing(tmp_path, tune):
    script = tmp_path / "train.py"
    script.write_text("import a_module_that_is_not_there\n" + SCRIPT.read_text())
    with pytest.raises(BrokenScriptError) as broken:
        lab.compare(
            script, "equal,pcgrad,mgda", seeds=3, out=tmp_path / "run", metrics=METRICS, tune=tune, jobs=2
        )
    said = str(broken.value)
    assert said.startswith("train failed before its first lab.log, with ")
    assert "No module named 'a_module_that_is_not_there'" in said
    assert 'train.py", line 1' in said
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name[0] != "."] == []
    # Mended, it runs in the same folder.
    script.write_text(SCRIPT.read_text())
    results = lab.compare(script, "equal", seeds=1, out=tmp_path / "run", metrics=METRICS)
    assert [trial.status for trial in results.run.trials] == ["finished"]


SPAWNS = """
import multiprocessing
from pathlib import Path
from manyloss import lab

def work(x):
    return 2.0 * x

if __name__ == "__main__":
    lab.method()
    Path(__file__).write_text(Path(__file__).read_text().replace("2.0", "3.0"))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        lab.log({"val/a": pool.map(work, [21.0])[0]}, epoch=1)
"""


@pytest.mark.slow
def test_a_process_that_the_script_spawns_reads_the_kept_text_too(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SPAWNS)
    results = lab.compare(script, "equal", seeds=1, out=tmp_path / "run", metrics=["val/a:max"])
    assert "3.0 * x" in script.read_text()
    assert results.run.trials[0].test == {"val/a": 42.0}


def test_a_script_whose_losses_are_not_known_has_its_table_and_no_front(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "from manyloss import lab\nmulti = lab.method()\n"
        "lab.log({'val/a': 1.0, 'val/b': float(lab.seed())}, epoch=1)\n"
    )
    with pytest.raises(lab.LabError, match="there is no --pareto, for no trial logged its losses"):
        lab.compare(
            script,
            "equal",
            seeds=1,
            out=tmp_path / "run",
            metrics=["val/a:max", "val/b:min"],
            pareto="val/a,val/b",
        )
    assert (tmp_path / "run" / "report.html").exists()
    assert not (tmp_path / "run" / "pareto.json").exists()


def test_a_script_is_compared(tmp_path):
    results = lab.compare(
        SCRIPT,
        ["equal", "static:sum=0.2:dif:2=1.8", "uncertainty"],
        seeds=1,
        out=tmp_path / "run",
        metrics=METRICS,
        arguments=["--fail-with", "uncertainty"],
        jobs=1,
    )
    trials = {trial.arm: trial for trial in results.run.trials}
    assert trials["uncertainty"].status == "crashed"
    assert trials["uncertainty"].reason == "RuntimeError: asked to fail"
    equal = trials["equal"]
    assert equal.status == "finished"
    assert [metric.name for metric in results.run.metrics] == ["test/rmse"]
    assert set(equal.test) == {"test/rmse"}
    logged = {record.epoch: record.validation_metrics for record in equal.epochs}
    assert set(logged) == {1, 2, 3}
    assert equal.best_epoch == min(logged, key=lambda epoch: logged[epoch]["val/rmse"])
    assert equal.test["test/rmse"] == logged[equal.best_epoch]["test/rmse"]
    assert equal.step_ms > 0
    weights = trials["static:dif:2=1.8:sum=0.2"].folder / "log.txt"
    assert "weights {'sum': 0.2, 'dif:2': 1.8}" in weights.read_text()
    assert results.table.tested_at == "at the epoch that was best on validation"

    again = lab.compare(
        SCRIPT,
        ["equal"],
        seeds=1,
        out=tmp_path / "run",
        metrics=METRICS,
        arguments=["--fail-with", "uncertainty"],
    )
    assert again.rows() == results.rows()
    with pytest.raises(lab.LabError, match="made with other settings"):
        lab.compare(SCRIPT, ["equal"], seeds=1, out=tmp_path / "run", metrics=METRICS)


NEGLECTS = """
import torch
from manyloss import lab

multi = lab.method()
torch.manual_seed(lab.seed(default=0))
layer = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(layer.parameters(), lr=lab.learning_rate(1e-3))
for epoch in range(1, 4):
    for _ in range(80):
        optimizer.zero_grad()
        z = layer(torch.ones(2, 4))
        multi.backward({"faint": 1e-4 * z.sum(), "loud": 100 * (z[:, 0] - 9).square().mean()}, features=z)
        optimizer.step()
    lab.log({"val/error": (z[:, 0] - 9).abs().mean() FAULT}, epoch=epoch)
"""


@pytest.mark.parametrize("fault", ["", "* torch.nan"], ids=["finished", "diverged"])
def test_what_a_method_warned_of_in_a_script_stands_below_the_table(fault, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(NEGLECTS.replace("FAULT", fault))
    table = lab.compare(
        script, ["equal", "mgda"], seeds=2, out=tmp_path / "run", metrics=["val/error:min"], jobs=2
    ).table
    assert table.remarks == [
        "mgda: Loss 'loud' has held less than 1 % of MGDA's weight for 200 steps: it hardly trains what the "
        "losses share. If it is the one that matters, keep it whole with MultiLoss(Primary('loud')). (warned "
        "once in training)"
    ]


def test_a_script_that_keeps_checkpoints_goes_on(tmp_path):
    arguments = ["--keep", "--stop-once"]
    settings = {"seeds": 1, "out": tmp_path / "run", "metrics": METRICS, "arguments": arguments, "jobs": 1}
    first = lab.compare(SCRIPT, ["equal"], **settings)
    assert first.run.trials[0].status == "crashed"
    assert first.run.trials[0].reason == "KeyError: 'stopped once'"
    second = lab.compare(SCRIPT, ["equal"], **settings, retry=True)
    trial = second.run.trials[0]
    assert trial.status == "finished"
    log = [record["epoch"] for record in storage.read_lines(trial.folder / "log.jsonl")]
    assert log == [1, 1, 2, 2, 3, 3]  # validation and test of each, once


def test_a_metric_that_is_never_logged_says_what_was(tmp_path):
    results = lab.compare(SCRIPT, ["equal"], seeds=1, out=tmp_path / "run", metrics=["val/rsme:min"], jobs=1)
    reason = results.run.trials[0].reason
    assert (
        "never called lab.log with 'val/rsme': it logged val/rmse, test/rmse. Did you mean 'val/rmse'?"
        in reason
    )


def test_a_script_without_metrics_says_what_to_give(tmp_path):
    path = tmp_path / "train.py"
    path.write_text("from manyloss import lab\nmulti = lab.method()\n")
    with pytest.raises(lab.LabError, match=r"is a script: say what is to be compared, with --metric"):
        lab.compare(path, ["equal"], seeds=1, out=tmp_path / "run")


def test_a_script_gets_its_own_learning_rate_back_by_itself():
    assert lab.learning_rate(3e-4) == 3e-4
    assert lab.weight_decay(0.1) == 0.1


def test_a_script_trains_with_the_setting_of_its_trial(tmp_path, monkeypatch):
    arm = "equal:optimizer.lr_factor=3:optimizer.weight_decay=0.01"
    spec = TrialSpec(Source(str(SCRIPT), script=ScriptCall({})), arm, 0, 1, tmp_path)
    (tmp_path / "spec.json").write_text(spec.to_json())
    monkeypatch.setenv(scripts.VARIABLE, str(tmp_path / "spec.json"))
    assert lab.learning_rate(1e-2) == pytest.approx(3e-2)
    assert lab.weight_decay() == 0.01


def test_a_script_that_keeps_its_learning_rate_cannot_be_tuned(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.read_text().replace("lab.learning_rate(1e-2)", "1e-2"))
    with pytest.raises(lab.LabError, match=r"never asks for lab.learning_rate. Write lr = lab.learning_rate"):
        lab.compare(script, metrics=METRICS, tune=2, out=tmp_path / "run")
    with pytest.raises(lab.LabError, match="cannot be given to a script"):
        lab.compare(SCRIPT, metrics=METRICS, single_task=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_script_is_tuned_and_its_losses_are_found_out(tmp_path):
    results = lab.compare(
        SCRIPT,
        ["pcgrad"],
        metrics=METRICS,
        tune=3,
        seeds=1,
        out=tmp_path / "run",
        arguments=["--epochs", "2"],
    )
    rows = {row["method"]: row for row in results.rows()}
    assert set(rows) == {"equal", "pcgrad", "tuned sum"}
    assert all(row["tuning_trials"] == 3 and row["finished"] == 1 for row in rows.values())
    asked = storage.read_json(tmp_path / "run" / "tuning" / "tuning.json")["rows"][-1]
    assert all("dif:2=" in setting["arm"] and "sum=" in setting["arm"] for setting in asked["settings"])
    assert "weight_decay" not in asked["settings"][1]["arm"]  # this script does not ask for it
