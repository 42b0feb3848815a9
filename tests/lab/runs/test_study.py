import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from manyloss.lab import LabError
from manyloss.lab.checks import StorageError
from manyloss.lab.runs import storage
from manyloss.lab.runs.progress import PlainDisplay
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.study import Study
from tests.lab.runs.test_trial import PROBLEM, assert_same_trial

COMMAND = [sys.executable, "-c", "from manyloss.cli import main; main()", "compare", PROBLEM]


def plan(root, methods=("equal", "gradnorm-static"), seeds=(0, 1), **settings):
    return Study.plan(Source(PROBLEM), methods, seeds, root, **settings)


def silent():
    return PlainDisplay(Console(quiet=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study; tests that change it take a copy."""
    root = tmp_path_factory.mktemp("study") / "run"
    plan(root).run(silent())
    return root


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_a_study_is_its_folder(finished):
    study = storage.read_json(finished / "study.json")
    assert study["format"] == 1
    assert study["problem"] == "digit-and-ink"
    assert study["arms"] == ["equal", "gradnorm-static"]
    assert study["seeds"] == [0, 1]
    assert study["epochs"] == 3
    assert study["baseline"] == "equal"
    assert study["metrics"]["ink/mean squared error"]["higher_is_better"] is False
    assert study["environment"]["threads_per_trial"] >= 1
    # The prerequisite was run, once per seed, without being compared.
    trials = {str(path.parent.relative_to(finished)) for path in finished.glob("trials/*/*/result.json")}
    assert trials == {
        f"trials/{arm}/seed-{k}" for arm in ("equal", "gradnorm", "gradnorm-static") for k in (0, 1)
    }
    for path in finished.glob("trials/*/*/result.json"):
        assert storage.read_json(path)["status"] == "finished"


def test_trials_come_seed_by_seed_and_prerequisites_first(tmp_path):
    labels = [spec.label for spec in plan(tmp_path / "x", ["gradnorm-static", "equal", "gradnorm"]).trials()]
    assert labels == [f"{arm} seed {k}" for k in (0, 1) for arm in ("gradnorm", "gradnorm-static", "equal")]


def test_the_baseline_is_added(tmp_path):
    study = plan(tmp_path / "x", ["mgda"])
    assert [arm.name for arm in study.arms] == ["equal", "mgda"]
    assert "equal is added" in study.remarks[0]


def test_nothing_is_repeated(run):
    before = {path: path.stat().st_mtime_ns for path in run.glob("trials/*/*/*")}
    study = plan(run)
    assert study.missing() == []
    study.run(silent())
    assert before == {path: path.stat().st_mtime_ns for path in run.glob("trials/*/*/*")}


def test_more_arms_and_seeds_join(run):
    study = plan(run, ["mgda", "equal"], [2])
    assert [arm.name for arm in study.arms] == ["equal", "gradnorm-static", "mgda"]
    assert study.seeds == [0, 1, 2]
    assert [spec.label for spec in study.missing()] == [
        "mgda seed 0",
        "mgda seed 1",
        "equal seed 2",
        "gradnorm seed 2",
        "gradnorm-static seed 2",
        "mgda seed 2",
    ]
    assert study.remarks == [
        "The folder also holds gradnorm-static.",
        "The folder also holds the seeds 0, 1.",
    ]


def test_a_row_that_was_tuned_anew_has_its_new_setting(run):
    """Even where its trials are there, so that nothing is to be trained."""
    known = storage.read_json(run / "study.json")
    storage.write_json(run / "study.json", known | {"labels": {"equal": "equal", "tuned": "gradnorm-static"}})
    labels = {"equal": "equal", "tuned": "gradnorm"}
    study = plan(run, labels.values(), labels=labels)
    assert [arm.name for arm in study.arms] == ["equal", "gradnorm"]
    assert study.missing() == []
    study.run(silent())
    record = storage.read_json(run / "study.json")
    assert (record["arms"], record["labels"]) == (["equal", "gradnorm"], labels)
    before = (run / "study.json").stat().st_mtime_ns
    plan(run, ["equal"]).run(silent())
    assert (run / "study.json").stat().st_mtime_ns == before


def test_a_setting_that_another_row_keeps_stays(run):
    labels = {"equal": "equal", "one": "gradnorm-static", "other": "gradnorm-static"}
    known = storage.read_json(run / "study.json")
    storage.write_json(run / "study.json", known | {"labels": labels})
    study = plan(run, ["equal", "gradnorm"], labels=labels | {"one": "gradnorm"})
    assert [arm.name for arm in study.arms] == ["equal", "gradnorm-static", "gradnorm"]


def test_other_data_and_another_commit_are_warned_of(run, monkeypatch):
    monkeypatch.setattr("manyloss.lab.runs.study.commit", lambda: "1111111")  # an installed package has none
    study = plan(run)
    splits = study.source.load().datasets(0)
    assert study.look_at_the_data(splits, 0) is None
    study.write()
    known = storage.read_json(run / "study.json")
    known["environment"]["commits"] = ["0000000"]
    storage.write_json(run / "study.json", known)
    again = plan(run)
    assert any("were trained at 0000000" in remark for remark in again.remarks)
    assert again.look_at_the_data(study.source.load().datasets(0), 0) is None
    assert not any("last digits" in remark for remark in again.remarks)
    splits.test.inputs[-1] += 1
    assert "the data are not those" in again.look_at_the_data(splits, 0)


def test_every_machine_that_trained_a_part_is_named(run):
    """The first one's name stays beside that of the one that goes on; another kernel is no other machine."""
    plan(run).write()
    known = storage.read_json(run / "study.json")
    assert "machines" not in known["environment"]
    here = {name: known["environment"][name] for name in ("processor", "torch", "numpy", "python")}
    there = {**here, "processor": "Some Xeon", "torch": "2.6.0"}
    known["environment"] |= {**there, "platform": "Linux of another version"}
    storage.write_json(run / "study.json", known)
    again = plan(run)
    assert again.remarks[-1] == (
        f"The trials in the folder were trained on Some Xeon, torch 2.6.0; here it is {here['processor']}, "
        f"torch {here['torch']}. Results of one trial may differ in their last digits."
    )
    again.write()
    written = storage.read_json(run / "study.json")["environment"]
    assert written["machines"] == [there, here]
    assert written["processor"] == here["processor"]
    plan(run).write()
    assert storage.read_json(run / "study.json")["environment"]["machines"] == [there, here]
    assert not any("last digits" in remark for remark in plan(run).remarks)


def test_a_lost_result_is_made_again(run):
    folder = storage.trial_folder(run, "equal", 1)
    shutil.rmtree(folder)
    assert [spec.label for spec in plan(run).missing()] == ["equal seed 1"]


@pytest.mark.parametrize(
    ("settings", "difference"),
    [({"epochs": 7}, "epochs was 3, now 7"), ({"device": "cuda"}, "device was 'cpu', now 'cuda'")],
)
def test_other_settings_are_refused(finished, settings, difference):
    with pytest.raises(StorageError, match=difference) as error:
        plan(finished, **settings)
    assert str(finished) in str(error.value)


def test_a_changed_problem_is_another_one(run, tmp_path):
    changed = tmp_path / "small_problem.py"
    changed.write_text(Path(PROBLEM).read_text().replace("momentum=0.9", "momentum=0.8"))
    with pytest.raises(
        StorageError, match=r"made with another text: small_problem.py .*momentum=0.9.*momentum=0.8"
    ):
        Study.plan(Source(str(changed)), ["equal"], [0], run)


@pytest.mark.parametrize("sweep", [(0.05, 0.1), [0.05, 0.1]])
def test_options_that_json_writes_otherwise_are_the_same_settings(tmp_path, sweep):
    source = Source("great-defense-cifar", {"data": "digits", "sweep": sweep})
    (tmp_path / "run").mkdir()
    Study.plan(source, ["baseline"], [0], tmp_path / "run").write()
    joined = Study.plan(source, ["baseline"], [0, 1], tmp_path / "run")
    assert joined.seeds == [0, 1]
    other = Source("great-defense-cifar", {"data": "digits", "sweep": (0.05, 0.2)})
    with pytest.raises(StorageError, match=r"source was .*0\.1.* now .*0\.2"):
        Study.plan(other, ["baseline"], [0], tmp_path / "run")


@pytest.mark.parametrize(
    "content", ["", "{", '{"format": 1}', "[]", '{"format": 1, "problem": 3, "epochs": 2}']
)
def test_a_damaged_plan_is_named(run, content):
    (run / "study.json").write_text(content)
    with pytest.raises(StorageError, match=r"study\.json is damaged .*Delete the file") as error:
        plan(run)
    assert "the trials are found again" in str(error.value)
    (run / "study.json").unlink()
    assert plan(run).missing() == []


def test_another_format_is_refused(run):
    (run / "study.json").write_text('{"format": 99}')
    with pytest.raises(LabError, match="has format 99"):
        plan(run)


@pytest.mark.parametrize("content", ["", "null", "{}", '{"status": '])
def test_a_damaged_result_is_named(run, content):
    path = storage.trial_folder(run, "equal", 1) / "result.json"
    path.write_text(content)
    with pytest.raises(StorageError, match="is damaged") as error:
        plan(run).missing()
    assert str(path) in str(error.value)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(LabError, match=r"has other files and no study\.json.*--out"):
        plan(tmp_path)
    with pytest.raises(LabError, match=r"Cannot write .*Not a directory.*--out"):
        plan(tmp_path / "thesis.tex")


def test_an_unwritable_place_is_a_clear_error():
    with pytest.raises(StorageError, match="Cannot write /proc/nowhere"):
        plan(Path("/proc/nowhere/run")).run(silent())


def test_crashed_trials_stay_unless_asked(run):
    path = storage.trial_folder(run, "equal", 1) / "result.json"
    storage.write_json(path, {"status": "crashed", "reason": "bad luck"})
    study = plan(run)
    assert study.missing() == []
    assert [(spec.label, result["reason"]) for spec, result in study.failures()] == [
        ("equal seed 1", "bad luck")
    ]
    study._forget_crashes()
    assert [spec.label for spec in study.missing()] == ["equal seed 1"]


def test_finished_trials_of_the_same_settings_are_taken_over(run, tmp_path):
    """With another alpha of GradNorm, only what that decides is trained again."""
    options = {"gradnorm.alpha": 0.5, "gradnorm-static.alpha": 0.5}
    storage.write_json(
        run / "trials" / "equal" / "seed-1" / "result.json", {"status": "crashed", "reason": "x"}
    )
    study = Study.plan(Source(PROBLEM, options), ["equal", "gradnorm-static"], [0, 1], tmp_path / "other")
    assert len(study.missing()) == 6
    study.take_over([tmp_path / "nothing", run])
    missing = {spec.label for spec in study.missing()}
    of_gradnorm = {f"{arm} seed {seed}" for arm in ("gradnorm", "gradnorm-static") for seed in (0, 1)}
    assert missing == of_gradnorm | {"equal seed 1"}
    there, here = run / "trials" / "equal" / "seed-0", study.root / "trials" / "equal" / "seed-0"
    assert_same_trial(there, here)
    assert {path.name for path in here.iterdir()} == {path.name for path in there.iterdir()} - {".lock"}
    assert [path.name for path in here.parent.iterdir()] == ["seed-0"]


def children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=300.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def epochs_kept(root):
    """By the checkpoints: a line of epochs.jsonl beyond them is cut off when its trial goes on."""
    checkpoints = [torch.load(path, weights_only=True) for path in root.glob("trials/*/*/checkpoint.pt")]
    return sum(each["state"]["epoch"] for each in checkpoints)


def stopped(command, root, signal_number):
    """The output of a command that is stopped after two more epochs, whose workers end with it."""
    before = epochs_kept(root)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        wait_for(lambda: epochs_kept(root) >= before + 2 or process.poll() is not None)
        workers = children(process.pid)
        assert workers
        if signal_number == signal.SIGINT:
            os.killpg(process.pid, signal_number)
        else:
            process.send_signal(signal_number)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == (130 if signal_number == signal.SIGINT else -signal_number)
    wait_for(lambda: not any(alive(pid) for pid in workers))
    assert epochs_kept(root) >= before + 2
    return output


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_stopped_command_goes_on_where_it_was(finished, tmp_path):
    """Killed in the middle, then ended by Ctrl-C, `manyloss compare` leaves the undisturbed study's bits."""
    root = tmp_path / "run"
    command = [*COMMAND, "--methods", "equal,gradnorm-static", "--seeds", "2", "--out", str(root)]
    stopped(command, root, signal.SIGKILL)
    output = stopped(command, root, signal.SIGINT)
    assert "Run the same command again" in output
    assert "Traceback" not in output
    results = len(list(root.glob("trials/*/*/result.json")))
    assert results < 6
    first = {path: path.stat().st_mtime_ns for path in root.glob("trials/*/*/result.json")}

    alone = [*command, "--jobs", "1"]  # how many at a time is nobody's setting
    again = subprocess.run(alone, capture_output=True, text=True, timeout=400, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{6 - results} of 6 trials to run" in again.stdout
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    for path in finished.glob("trials/*/*"):
        assert_same_trial(path, root / path.relative_to(finished))
    assert (root / "report.html").exists()


def test_trials_of_another_folder_are_taken_over(finished, tmp_path):
    study = plan(tmp_path / "more", ["equal", "mgda"], (0, 1, 2))
    study.take_over([finished])
    assert [spec.label for spec in study.missing()] == [
        "mgda seed 0", "mgda seed 1", "equal seed 2", "mgda seed 2",
    ]  # fmt: skip
    assert study.notes["taken over"] == {"run": 2}
    (commit,) = storage.read_json(finished / "study.json")["environment"]["commits"] or [None]
    trained = f", trained at {commit}" if commit else ""
    assert study.remarks[-1] == f"2 finished trials of the same settings are copied from {finished}{trained}."
    copied, original = (storage.trial_folder(root, "equal", 1) for root in (study.root, finished))
    assert_same_trial(copied, original)
    study.run(silent())
    kept = storage.read_json(study.root / "study.json")
    assert kept["settings"]["taken over"] == {"run": 2}
    # A later call neither copies again nor forgets.
    again = plan(tmp_path / "more", ["equal", "mgda"], (0, 1, 2, 3))
    again.take_over([finished])
    again.run(silent())
    assert storage.read_json(study.root / "study.json")["settings"]["taken over"] == {"run": 2}


def test_what_is_taken_over_later_is_recorded_though_nothing_is_trained(finished, tmp_path):
    for seeds in ((0,), (0, 1)):
        study = plan(tmp_path / "more", ["equal", "gradnorm"], seeds)
        study.take_over([finished])
        study.run(silent())
        kept = storage.read_json(study.root / "study.json")
        assert kept["seeds"] == list(seeds)
        assert kept["settings"]["taken over"] == {"run": 2 * len(seeds)}
    path = study.root / "study.json"
    written = path.stat().st_mtime_ns
    plan(tmp_path / "more", ["equal", "gradnorm"], [1]).run(silent())
    assert path.stat().st_mtime_ns == written


def test_trials_of_other_settings_or_data_are_not_taken_over(finished, run, tmp_path):
    (storage.trial_folder(run, "equal", 0) / "result.json").write_text("{")
    beside = plan(tmp_path / "beside")
    beside.take_over([run])  # what is damaged there is trained here
    assert [spec.label for spec in beside.missing()] == ["equal seed 0"]
    longer = plan(tmp_path / "longer", epochs=4)
    longer.take_over([finished])
    assert len(longer.missing()) == len(longer.trials())
    about = storage.read_json(run / "study.json")
    about["environment"]["data"] = {"0": "other digits"}
    storage.write_json(run / "study.json", about)
    study = plan(tmp_path / "others")
    study.data = {"0": "these digits"}
    study.take_over([run])
    assert len(study.missing()) == len(study.trials())
    assert "taken over" not in study.notes
    assert not storage.trial_folder(study.root, "equal", 0).exists()
