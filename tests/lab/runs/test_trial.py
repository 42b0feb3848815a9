import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from manyloss import notices
from manyloss.lab import LabError
from manyloss.lab.analysis.results import read_trial
from manyloss.lab.checks import StorageError
from manyloss.lab.runs import storage
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.trial import Trial, TrialSpec
from manyloss.lab.runs.worker import run_trial
from manyloss.lab.training import seed_for
from tests.forkserver import CONTEXT, ended, started

PROBLEM = str(Path(__file__).parents[1] / "small_problem.py")


def spec(root, arm="equal", seed=0, epochs=3, **options):
    return TrialSpec(Source(PROBLEM, options), arm, seed, epochs, root)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(value):
    if not isinstance(value, dict):
        return value
    return {name: without_times(item) for name, item in value.items() if name not in ("seconds", "step_ms")}


def tensors(value, path=""):
    """All tensors and numbers of a checkpoint by path, without the times."""
    if isinstance(value, dict):
        found = {}
        for name, item in value.items():
            if name not in ("seconds", "step_ms", "lengths"):
                found |= tensors(item, f"{path}/{name}")
        return found
    if isinstance(value, list | tuple):
        found = {}
        for i, item in enumerate(value):
            found |= tensors(item, f"{path}/{i}")
        return found
    return {path: value}


def same(a, b):
    if isinstance(a, torch.Tensor):  # what was never measured is NaN in both
        return a.dtype == b.dtype and a.shape == b.shape and torch.allclose(a, b, 0.0, 0.0, equal_nan=True)
    return bool((a == b).all()) if hasattr(a, "all") else a == b


def assert_same_trial(one, other):
    """Everything but the times is the same, bit for bit."""
    assert (one / "steps.jsonl").read_bytes() == (other / "steps.jsonl").read_bytes()
    epochs = [[without_times(r) for r in lines(folder / "epochs.jsonl")] for folder in (one, other)]
    assert epochs[0] == epochs[1]
    results = [without_times(storage.read_json(folder / "result.json")) for folder in (one, other)]
    assert results[0] == results[1]
    states = [tensors(torch.load(folder / "checkpoint.pt", weights_only=True)) for folder in (one, other)]
    assert states[0].keys() == states[1].keys()
    different = [path for path in states[0] if not same(states[0][path], states[1][path])]
    assert different == []


class Stop(BaseException):
    """Like Ctrl-C, but not caught by pytest."""


def stop_at(when):
    def progress(done, losses):
        if done >= when:
            raise Stop

    return progress


def run_with_stops(trial_spec, *stops):
    for when in stops:
        with pytest.raises(Stop):
            Trial(trial_spec).run(stop_at(when))
    return Trial(trial_spec).run()


def test_a_trial_writes_its_folder(tmp_path):
    result = Trial(spec(tmp_path, "gradnorm")).run()
    folder = tmp_path / "trials" / "gradnorm" / "seed-0"
    assert result == storage.read_json(folder / "result.json")
    assert result["status"] == "finished"
    assert result["best_epoch"] in (1, 2, 3)
    assert set(result["test"]) == {"digit/accuracy", "ink/mean squared error"}
    assert result["test"]["digit/accuracy"] > 0.5
    assert sum(result["mean_weights"].values()) == pytest.approx(2)
    assert set(result["cosine_std"]) == {"digit|ink"}
    settings = storage.read_json(folder / "settings.json")
    assert settings["options"]["alpha"] == 1.5
    assert settings["environment"]["torch"] == torch.__version__
    epochs = lines(folder / "epochs.jsonl")
    assert [record["epoch"] for record in epochs] == [1, 2, 3]
    assert epochs[0]["learning_rate"] > epochs[1]["learning_rate"]
    assert set(epochs[0]["validation"]) == {"metrics", "losses"}
    steps = lines(folder / "steps.jsonl")
    assert [record["step"] for record in steps] == list(range(1, 61))
    assert steps[0]["cosines"][0][0] == pytest.approx(1)
    assert set(steps[0]["norms"]) == {"digit", "ink"}
    best = max(epochs, key=lambda r: r["validation"]["metrics"]["digit/accuracy"])
    assert result["validation"] in [r["validation"]["metrics"] for r in epochs]
    assert best["epoch"] >= 1


@pytest.mark.parametrize(
    "arm",
    ["equal", "gradnorm", "uncertainty", "dwa", "pcgrad", "graddrop", "mgda", "cosreg:alpha=0.1", "random"],
)
def test_a_resumed_trial_is_the_same_bit_for_bit(arm, tmp_path):
    whole, broken = spec(tmp_path / "whole", arm), spec(tmp_path / "broken", arm)
    Trial(whole).run()
    # Before the first step, right after the first checkpoint, and after it in the one that follows.
    run_with_stops(broken, 0.0, 1.0, 2.0)
    assert_same_trial(whole.folder, broken.folder)


@pytest.mark.filterwarnings("ignore:Loss .* has held less than 1 %")
def test_what_a_method_warned_of_is_in_the_result_of_a_resumed_trial_too(monkeypatch, tmp_path):
    monkeypatch.setattr(notices, "LOOKS", 2)  # 1 % of the weight is little for 20 steps already
    said = Trial(spec(tmp_path / "whole", "mgda")).run()["warnings"]
    assert [text.partition(": ")[0] for text in said] == [
        "Loss 'digit' has held less than 1 % of MGDA's weight for 20 steps"
    ]
    broken = run_with_stops(spec(tmp_path / "broken", "mgda"), 1.0, 2.0)
    assert broken["warnings"] == said == dict.fromkeys(said, 1)
    failed = Trial(spec(tmp_path / "failed", "mgda-fails")).run()
    assert failed["status"] == "crashed"
    assert failed["warnings"] == said


def test_what_lies_beyond_the_checkpoint_is_cut_off(tmp_path):
    whole, broken = spec(tmp_path / "whole"), spec(tmp_path / "broken")
    Trial(whole).run()
    with pytest.raises(Stop):
        Trial(broken).run(stop_at(2.0))
    for name in ("epochs.jsonl", "steps.jsonl"):
        with (broken.folder / name).open("a") as file:
            file.write('{"epoch": 3, "half a li')
    Trial(broken).run()
    assert_same_trial(whole.folder, broken.folder)


def test_a_finished_trial_is_not_repeated(tmp_path):
    first = Trial(spec(tmp_path)).run()
    before = {path: path.stat().st_mtime_ns for path in spec(tmp_path).folder.iterdir()}
    assert Trial(spec(tmp_path)).run() == first
    assert before == {path: path.stat().st_mtime_ns for path in spec(tmp_path).folder.iterdir()}


def test_all_arms_start_at_the_same_weights_and_see_the_same_batches(tmp_path):
    first, orders = {}, {}
    for arm in ("equal", "graddrop", "random", "cosreg"):
        training = Trial(spec(tmp_path, arm)).training()
        orders[arm] = torch.randperm(1000, generator=training.order)
        first[arm] = {name: value.clone() for name, value in training.model.state_dict().items()}
    for arm in first:
        assert torch.equal(orders[arm], orders["equal"])
        assert all(torch.equal(first[arm][name], first["equal"][name]) for name in first["equal"])
    other = Trial(spec(tmp_path, seed=1)).training()
    assert not torch.equal(torch.randperm(1000, generator=other.order), orders["equal"])


def test_seeds_differ_between_purposes_and_problems():
    seeds = {seed_for(p, s, purpose) for p in ("a", "b") for s in (0, 1) for purpose in ("weights", "order")}
    assert len(seeds) == 8


def test_measuring_leaves_no_trace(tmp_path):
    problem = (tmp_path / "unmeasured.py").absolute()
    problem.write_text(Path(PROBLEM).read_text().replace("measured = True", "measured = False"))
    measured = spec(tmp_path / "a", "gradnorm")
    unmeasured = TrialSpec(Source(str(problem)), "gradnorm", 0, 3, tmp_path / "b")
    Trial(measured).run()
    Trial(unmeasured).run()
    assert lines(unmeasured.folder / "steps.jsonl")[0]["cosines"] is None
    states = [torch.load(s.folder / "checkpoint.pt", weights_only=True) for s in (measured, unmeasured)]
    parts = [
        tensors({name: state[name] for name in ("model", "optimizer", "method", "order", "random")})
        for state in states
    ]
    assert [path for path in parts[0] if not same(parts[0][path], parts[1][path])] == []


@pytest.mark.parametrize("arm", ["equal", "gradnorm", "pcgrad", "cosreg"])
def test_a_trial_that_measures_nothing_trains_the_same(tmp_path, arm):
    measured, unmeasured = spec(tmp_path / "a", arm), replace(spec(tmp_path / "b", arm), measured=False)
    results = [Trial(each).run() for each in (measured, unmeasured)]
    assert lines(measured.folder / "steps.jsonl")[0]["cosines"] is not None
    records = lines(unmeasured.folder / "steps.jsonl")
    assert {(record["cosines"], record["norms"]) for record in records} == {(None, None)}
    assert [record["losses"] for record in records] == [
        record["losses"] for record in lines(measured.folder / "steps.jsonl")
    ]
    assert results[0]["test"] == results[1]["test"]
    settings = [storage.read_json(each.folder / "settings.json")["hash"] for each in (measured, unmeasured)]
    assert settings[0] == settings[1]
    assert TrialSpec.from_json(unmeasured.to_json()) == unmeasured


def test_looking_after_epochs_is_kept_and_leaves_no_trace(tmp_path):
    Trial(spec(tmp_path, "equal")).run()
    run_with_stops(spec(tmp_path, "looking"), 1.5)
    folders = [tmp_path / "trials" / arm / "seed-0" for arm in ("equal", "looking")]
    assert (folders[0] / "steps.jsonl").read_bytes() == (folders[1] / "steps.jsonl").read_bytes()
    seen = [record.pop("along") for record in lines(folders[1] / "epochs.jsonl")]
    assert [found["epoch"] for found in seen] == [1, 2, 3]
    assert len({found["size of noise"] for found in seen}) == 3
    assert "along" not in lines(folders[0] / "epochs.jsonl")[0]
    assert [record.along for record in read_trial(tmp_path, "looking", 0).epochs] == seen


def test_one_task_trains_one_loss(tmp_path):
    result = Trial(spec(tmp_path, "single:ink")).run()
    assert set(result["test"]) == {"ink/mean squared error"}
    assert set(lines(spec(tmp_path, "single:ink").folder / "steps.jsonl")[0]["losses"]) == {"ink"}


@pytest.mark.parametrize("method", ["gradnorm", "cagrad", "uncertainty"])
def test_the_average_weights_of_a_method_are_held(method, tmp_path):
    found = Trial(spec(tmp_path, method)).run()
    held = Trial(spec(tmp_path, f"{method}-static")).run()
    steps = lines(spec(tmp_path, f"{method}-static").folder / "steps.jsonl")
    unit = fmean(found["mean_weights"].values()) if method == "cagrad" else 1
    average = {name: weight / unit for name, weight in found["mean_weights"].items()}
    assert steps[0]["weights"] == steps[-1]["weights"] == pytest.approx(average)
    assert held["mean_weights"] == pytest.approx(average)


def test_a_missing_prerequisite_is_the_reason(tmp_path):
    result = Trial(spec(tmp_path, "gradnorm-static")).run()
    assert result["status"] == "crashed"
    assert result["reason"] == "'gradnorm-static' needs the trial 'gradnorm' of seed 0, which has not run."


def test_divergence_is_a_result(tmp_path):
    result = Trial(spec(tmp_path, "explode")).run()
    assert result["status"] == "diverged"
    assert result["reason"].startswith("epoch 1, step")
    assert "'digit'" in result["reason"] or "'ink'" in result["reason"]
    assert result["test"] == {}


def test_a_crash_is_a_result_with_its_traceback(tmp_path):
    failing = spec(tmp_path, "fail")
    result = Trial(failing).run()
    assert result["status"] == "crashed"
    assert result["reason"].startswith("RuntimeError: the fifth step is too much (small_problem.py, line ")
    assert "small_problem.py" in (failing.folder / "log.txt").read_text()


def test_other_settings_are_refused(tmp_path):
    Trial(spec(tmp_path)).run()
    with pytest.raises(StorageError, match="made with other settings: epochs was 3, now 4") as error:
        Trial(spec(tmp_path, epochs=4)).run()
    assert "--out" in str(error.value)


@pytest.mark.parametrize("name", ["settings.json", "result.json", "checkpoint.pt", "epochs.jsonl"])
def test_a_damaged_file_is_named_with_the_way_out(name, tmp_path):
    broken = spec(tmp_path)
    with pytest.raises(Stop):
        Trial(broken).run(stop_at(2.0))
    path = broken.folder / name
    path.write_bytes(path.read_bytes()[:40] if path.exists() else b'{"status"')
    with pytest.raises(StorageError) as error:
        Trial(broken).run()
    assert str(path) in str(error.value)
    assert "is damaged" in str(error.value)
    assert f"Delete the folder {broken.folder} and run the command that made it again" in str(error.value)


def test_a_checkpoint_of_another_version_is_not_called_damaged(tmp_path):
    older = spec(tmp_path)
    with pytest.raises(Stop):
        Trial(older).run(stop_at(2.0))
    path = older.folder / "checkpoint.pt"
    torch.save(torch.load(path, weights_only=True) | {"format": 2}, path)
    with pytest.raises(StorageError) as error:
        Trial(older).run()
    assert str(error.value) == (
        f"{path} is of another version of manyloss (format 2, this version reads 4). "
        f"Delete the folder {older.folder} and run the command that made it again: "
        "that trial starts again, the others are kept."
    )


def run_with_small_files(text, bytes_, said):
    import resource

    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, resource.RLIM_INFINITY))
    try:
        Trial(TrialSpec.from_json(text)).run()
    except StorageError as error:
        said.put(str(error))


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
@pytest.mark.parametrize(
    ("bytes_", "name"), [(200, "settings.json"), (4000, "steps.jsonl"), (20_000, "checkpoint.pt")]
)
def test_a_file_that_cannot_grow_is_a_clear_error_and_the_trial_goes_on_later(bytes_, name, tmp_path):
    whole, broken = spec(tmp_path / "whole"), spec(tmp_path / "broken")
    answer = CONTEXT.SimpleQueue()
    assert ended([started(run_with_small_files, broken.to_json(), bytes_, answer)]) == [0]
    said = answer.get()
    assert said.startswith(f"Cannot write {broken.folder / name}: File too large.")
    assert "run the same command again: finished trials are kept" in said
    assert not list(broken.folder.glob(".*.partial"))
    Trial(broken).run()
    Trial(whole).run()
    assert_same_trial(whole.folder, broken.folder)


def test_two_writers_are_refused(tmp_path):
    refused = pytest.raises(StorageError, match="Another run is writing to")
    with storage.only_writer(tmp_path), refused, storage.only_writer(tmp_path):
        pass
    with storage.only_writer(tmp_path):
        pass


def test_files_are_replaced_as_a_whole(tmp_path):
    path = tmp_path / "x.json"
    storage.write_json(path, {"a": math.nan, "b": [math.inf, 1.5]})
    assert json.loads(path.read_text()) == {"a": None, "b": [None, 1.5]}
    assert [item.name for item in tmp_path.iterdir()] == ["x.json"]


def test_arms_have_folders_of_their_own(tmp_path):
    names = ["a:b", "a_b", "a,b", "a/b", "graddrop:k=0.5", "..", "ä"]
    folders = {storage.trial_folder(tmp_path, name, 0) for name in names}
    assert len(folders) == len(names)
    assert all(folder.resolve().parent.parent == tmp_path.resolve() / "trials" for folder in folders)
    assert storage.trial_folder(tmp_path, "graddrop:k=0.5", 2).parent.name == "graddrop,k=0.5"


def test_an_unknown_arm_is_no_trial(tmp_path):
    with pytest.raises(LabError, match="no method 'equl'"):
        Trial(spec(tmp_path, "equl"))


def test_a_trial_is_a_command_of_its_own(tmp_path):
    alone = spec(tmp_path, epochs=1)
    (tmp_path / "spec.json").write_text(alone.to_json())
    command = [sys.executable, "-m", "manyloss.lab.runs.worker", str(tmp_path / "spec.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"kind": "done", "status": "finished"}
    assert done.stderr == ""  # nor a warning of Python's, which would be the first line of a log
    assert storage.read_result(alone.folder)["status"] == "finished"


def test_a_problem_may_have_workers_of_its_own(tmp_path):
    """A split that reads by a DataLoader with a worker process, in a trial's own process."""
    text = Path(PROBLEM).read_text()
    text = text.replace(
        "        return Splits(part(0, 1280), part(1280, 1500), part(1500, None))",
        "        return Splits(Loaded(part(0, 64)), part(1280, 1500), part(1500, None))",
    )
    text += """

class Loaded:
    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def batch(self, indices, generator):
        loader = torch.utils.data.DataLoader(
            self.split, batch_size=len(indices), sampler=indices.tolist(), num_workers=1
        )
        return next(iter(loader))
"""
    path = tmp_path / "loaded.py"
    path.write_text(text)
    alone = TrialSpec(Source(str(path)), "equal", 0, 1, tmp_path / "run")
    assert ended([started(run_trial, alone)]) == [0]
    result = storage.read_result(alone.folder)
    assert result["status"] == "finished", result["reason"]
