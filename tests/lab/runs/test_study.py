import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from manyloss.lab import LabError
from manyloss.lab.checks import BrokenProblemError, StorageError
from manyloss.lab.runs import storage
from manyloss.lab.runs.progress import PlainDisplay
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.study import Study, try_out
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
    splits.test.inputs[-1] += 1
    assert "the data are not those" in again.look_at_the_data(splits, 0)


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


def epochs_done(root):
    return sum(len(path.read_bytes().splitlines()) for path in root.glob("trials/*/*/epochs.jsonl"))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_command_goes_on_where_it_was(signal_number, finished, tmp_path):
    """Stop `manyloss compare` in the middle, run it again, compare with the undisturbed study bit for bit."""
    root = tmp_path / "run"
    arguments = ["--methods", "equal,gradnorm-static", "--seeds", "2", "--jobs", "1", "--out", str(root)]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(lambda: epochs_done(root) >= 2 or process.poll() is not None)
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
    if signal_number == signal.SIGINT:
        assert "Run the same command again" in output
        assert "Traceback" not in output
    wait_for(lambda: not any(alive(pid) for pid in workers))
    done = epochs_done(root)
    assert done >= 2
    results = len(list(root.glob("trials/*/*/result.json")))
    assert results < 6
    first = {path: path.stat().st_mtime_ns for path in root.glob("trials/*/*/result.json")}

    again = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=400, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{6 - results} of 6 trials to run" in again.stdout
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    for path in finished.glob("trials/*/*"):
        assert_same_trial(path, root / path.relative_to(finished))
    assert (root / "report.html").exists()


# -- problems that fail -----------------------------------------------------------------------------------

GOOD = Path(PROBLEM).read_text()


def source_of(tmp_path, text):
    path = tmp_path / "my_problem.py"
    path.write_text(text)
    return Source(str(path))


@pytest.mark.parametrize(
    ("good", "bad", "doing", "last", "line"),
    [
        ("import os", "import os, nothing_like_it", "was imported", "ModuleNotFoundError", "nothing_like_it"),
        ("class DigitAndInk", "class class DigitAndInk", "was imported", "SyntaxError", "class class"),
        ("self.steps = 0", "self.steps = 1 / 0", "was made", "ZeroDivisionError", "1 / 0"),
        (
            "digits = load_digits()",
            "digits = load_digit()",
            "datasets(0) was called",
            "NameError",
            "load_digit()",
        ),
        ("nn.BatchNorm2d(4)", "nn.BatchNorm(4)", "its model was made", "AttributeError", "nn.BatchNorm(4)"),
        (
            "nn.Linear(144, 32)",
            "nn.Linear(145, 32)",
            "ran through its model",
            "RuntimeError: mat1 and mat2",
            "",
        ),
        ("F.mse_loss}", "lambda a, b: a.nope}", "its losses were", "has no attribute 'nope'", "a.nope"),
        ("import os", "import sys; sys.exit(2)", "was imported", "under `if __name__", "sys.exit(2)"),
    ],
)
def test_a_broken_problem_shows_its_own_short_traceback(good, bad, doing, last, line, tmp_path):
    assert good in GOOD
    source = source_of(tmp_path, GOOD.replace(good, bad, 1))
    with pytest.raises(BrokenProblemError) as error:
        try_out(source.load(), 0)
    text = str(error.value)
    assert doing in text.splitlines()[0]
    assert last in text.splitlines()[-1] + text
    assert line in text
    assert "src/manyloss" not in text
    assert "site-packages" not in text
    assert len(text.splitlines()) <= 12


def test_a_good_problem_passes(tmp_path):
    try_out(source_of(tmp_path, GOOD).load(), 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "has no Problem class. Write one subclass"),
        (GOOD + "\nclass Other(Problem):\n    pass\n", "has 2 Problem classes (DigitAndInk, Other)"),
        (GOOD.replace("part(1500, None)", "part(1500, 1500)"), "digit-and-ink: the test split is empty"),
        (
            GOOD.replace('"ink": MeanSquaredError', '"inc": MeanSquaredError'),
            "metrics has 'inc', but the targets of a batch have no 'inc': digit, ink.",
        ),
    ],
)
def test_a_file_without_one_problem_is_an_error(text, message, tmp_path):
    with pytest.raises(LabError) as error:
        try_out(source_of(tmp_path, text).load(), 0)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (
            "return Splits(part(0, 1280), part(1280, 1500), part(1500, None))",
            "return part(0, 10), part(10, 20)",
            "datasets(seed) returned a tuple of 2: TensorSplit, TensorSplit. Return Splits(",
        ),
        (
            "return Splits(part(0, 1280), part(1280, 1500), part(1500, None))",
            "return Splits(*[[{'image': x[0], 'label': 1}] * 8] * 3)",
            "a sample of a split is a dict of 'image', 'label'. It may be a pair (input, {task: target})",
        ),
        (
            "return Splits(part(0, 1280), part(1280, 1500), part(1500, None))",
            "return Splits(*[[(x[0], {'digit': y['digit'][0], 'ink': None})] * 8] * 3)",
            "the target of 'ink' is None in a sample, which cannot be stacked. Write collate_fn(samples)",
        ),
        (
            "return Splits(part(0, 1280), part(1280, 1500), part(1500, None))",
            "return Splits(*[[(x[0], {'ink': y['ink'][0] if i < 1 else None}) for i in range(8)]] * 3)",
            "the target of 'ink' is None in a sample, which cannot be stacked.",
        ),
        (
            "return Splits(part(0, 1280), part(1280, 1500), part(1500, None))",
            "return Splits(*[[(x[0].flatten()[: i + 1], {'ink': y['ink'][0]}) for i in range(8)]] * 3)",
            "the samples of a split cannot be stacked to a batch (stack expects each tensor to be equal size",
        ),
        (
            "def heads(self):",
            "def model(self):\n        return self.encoder()\n\n    def heads(self):",
            "its model returned a Tensor [4, 32]. Its forward must return (features, {task: output})",
        ),
        ('"ink": F.mse_loss}', '"ink": lambda a, b: (a - b) ** 2}', "loss 'ink' is a Tensor [4, 1], not one"),
        ('"ink": F.mse_loss}', '"ink": lambda a, b: a.sum() / 0 * 0}', "loss 'ink' is nan. Look for missing"),
    ],
)
def test_what_a_problem_may_return_is_said(good, bad, message, tmp_path):
    assert good in GOOD
    with pytest.raises(LabError) as error:
        try_out(source_of(tmp_path, GOOD.replace(good, bad, 1)).load(), 0)
    assert message in str(error.value)


def test_samples_of_any_kind_have_a_collate_fn(tmp_path):
    text = GOOD.replace(
        "return Splits(part(0, 1280), part(1280, 1500), part(1500, None))",
        "return Splits(*[[{'image': x[i]} | {t: v[i] for t, v in y.items()} for i in range(8)]] * 3)",
    ).replace(
        "    def heads(self):",
        "    def collate_fn(self, samples):\n"
        "        names = ('image', 'digit', 'ink')\n"
        "        image, *rest = [torch.stack([s[n] for s in samples]) for n in names]\n"
        "        return image, dict(zip(names[1:], rest))\n\n"
        "    def heads(self):",
    )
    tried = try_out(source_of(tmp_path, text).load(), 0)
    assert tried.measured_at == "encoder.5.weight, encoder.5.bias"
    assert tried.seconds > 0


def test_a_subclass_or_a_ready_problem_decides(tmp_path):
    more = GOOD + "\nclass Longer(DigitAndInk):\n    name = 'longer'\n"
    assert source_of(tmp_path, more).load().name == "longer"
    ready = GOOD + "\nproblem = DigitAndInk(pause=2.5)\n"
    source = source_of(tmp_path, ready)
    first = source.load()
    first.pause = 7
    assert source.load().pause == 2.5


def test_identity_is_the_content(tmp_path):
    one = source_of(tmp_path, GOOD).identity()
    assert one == source_of(tmp_path, GOOD).identity()
    assert one != source_of(tmp_path, GOOD + "\n# changed\n").identity()
    assert json.dumps(one)
