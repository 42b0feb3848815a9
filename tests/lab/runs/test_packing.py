"""A packed run goes on where it was left: nothing is trained again, and no other file passes for one."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from manyloss.lab import LabError, compare, report
from manyloss.lab.checks import StorageError
from manyloss.lab.runs import storage
from manyloss.lab.runs.packing import pack, unpack
from tests.lab.runs.test_study import plan, silent
from tests.lab.runs.test_trial import PROBLEM, without_times

SOURCE = Path(PROBLEM).name


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("packing") / "run"
    plan(root).run(silent())
    return root


@pytest.fixture
def packed(finished, tmp_path):
    pack(finished, tmp_path / "packed" / "run.tar.xz")
    return tmp_path / "packed" / "run.tar.xz"


def results_in(root):
    return {
        path.parent.relative_to(root).as_posix(): path.read_bytes()
        for path in root.glob("trials/*/*/result.json")
    }


def archive(path, files):
    """A tar.xz of text by name; a name ending in @ is a link."""
    with tarfile.open(path, "w:xz") as made:
        for name, text in files.items():
            member = tarfile.TarInfo(name.removesuffix("@"))
            if name.endswith("@"):
                member.type, member.linkname = tarfile.SYMTYPE, text
                made.addfile(member)
            else:
                member.size = len(text)
                made.addfile(member, io.BytesIO(text.encode()))
    return path


def test_a_packed_run_is_the_run_without_its_weights(finished, packed, tmp_path):
    root = tmp_path / "elsewhere" / "run"
    assert unpack(packed, root)
    assert results_in(root) == results_in(finished)
    assert len(results_in(root)) == 6
    kept = {path.name for path in root.rglob("*") if path.is_file()}
    assert kept == {"study.json", "settings.json", "result.json", "epochs.jsonl", "source.json", SOURCE}
    one, other = (report(folder, out=tmp_path / "page.html").rows() for folder in (finished, root))
    assert one == other


def test_the_same_run_is_packed_into_the_same_bytes(finished, packed, tmp_path):
    copied = shutil.copytree(finished, tmp_path / "run")
    assert pack(copied, tmp_path / "again.tar.xz") == (6, 0)
    assert (tmp_path / "again.tar.xz").read_bytes() == packed.read_bytes()
    assert unpack(packed, tmp_path / "third")
    pack(tmp_path / "third", tmp_path / "third.tar.xz")
    assert (tmp_path / "third.tar.xz").read_bytes() == packed.read_bytes()


def test_only_what_is_added_is_trained(finished, packed, tmp_path):
    root = tmp_path / "run"
    assert unpack(packed, root)
    assert plan(root).missing() == []
    study = plan(root, ["equal", "mgda"])
    assert [spec.label for spec in study.missing()] == ["mgda seed 0", "mgda seed 1"]
    study.run(silent())
    assert results_in(finished).items() < results_in(root).items()
    assert not unpack(packed, root)
    assert len(results_in(root)) == 8


def test_weights_that_a_new_trial_needs_are_trained_again(tmp_path):
    plan(tmp_path / "run", ["equal", "pcgrad"], [0]).run(silent())
    pack(tmp_path / "run", tmp_path / "run.tar.xz")
    unpack(tmp_path / "run.tar.xz", tmp_path / "more")
    first = json.loads(results_in(tmp_path / "run")["trials/equal/seed-0"])
    study = plan(tmp_path / "more", ["equal", "pcgrad", "continued"], [0])
    assert [spec.label for spec in study.missing()] == ["continued seed 0"]
    study.run(silent())
    assert storage.trial_folder(tmp_path / "more", "equal", 0).joinpath("checkpoint.pt").exists()
    assert not storage.trial_folder(tmp_path / "more", "pcgrad", 0).joinpath("checkpoint.pt").exists()
    again = json.loads(results_in(tmp_path / "more")["trials/equal/seed-0"])
    assert without_times(again) == without_times(first)
    assert study.missing() == []


def test_average_weights_are_held_without_another_training(tmp_path):
    plan(tmp_path / "run", ["equal", "cagrad"], [0]).run(silent())
    pack(tmp_path / "run", tmp_path / "run.tar.xz")
    unpack(tmp_path / "run.tar.xz", tmp_path / "more")
    before = results_in(tmp_path / "more")
    study = plan(tmp_path / "more", ["equal", "cagrad", "cagrad-static"], [0])
    study.run(silent())
    assert study.missing() == []
    after = results_in(tmp_path / "more")
    assert after.items() > before.items()
    method, held = (json.loads(after[f"trials/{arm}/seed-0"]) for arm in ("cagrad", "cagrad-static"))
    unit = sum(method["mean_weights"].values()) / 2
    assert held["mean_weights"] == pytest.approx({n: w / unit for n, w in method["mean_weights"].items()})


def test_what_only_trials_with_results_need_is_not_missing(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    for seed in (0, 1):
        storage.remove(storage.trial_folder(run, "gradnorm", seed))
    assert plan(run).missing() == []
    storage.remove(storage.trial_folder(run, "gradnorm-static", 1))
    assert [spec.label for spec in plan(run).missing()] == ["gradnorm seed 1", "gradnorm-static seed 1"]


def test_trials_that_have_not_ended_are_left_out(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    storage.remove(storage.trial_folder(run, "equal", 1) / "result.json")
    assert pack(run, tmp_path / "run.tar.xz") == (5, 1)
    unpack(tmp_path / "run.tar.xz", tmp_path / "more")
    assert [spec.label for spec in plan(tmp_path / "more").missing()] == ["equal seed 1"]


@pytest.mark.parametrize("prune", [False, True])
def test_of_many_epochs_some_are_kept_and_all_where_later_trials_are_measured_against_them(
    finished, tmp_path, prune
):
    run = shutil.copytree(finished, tmp_path / "run")
    folder = storage.trial_folder(run, "equal", 0)
    record, *_ = storage.read_lines(folder / "epochs.jsonl")
    storage.remove(folder / "epochs.jsonl")
    storage.append_lines(folder / "epochs.jsonl", [{**record, "epoch": epoch} for epoch in range(1, 101)])
    storage.write_json(
        folder / "result.json", {**storage.read_json(folder / "result.json"), "best_epoch": 42}
    )
    storage.make_folder(run / "tuning")
    storage.write_json(run / "tuning" / "tuning.json", {"prune": prune})
    pack(run, tmp_path / "run.tar.xz")
    unpack(tmp_path / "run.tar.xz", tmp_path / "more")
    kept = storage.read_lines(storage.trial_folder(tmp_path / "more", "equal", 0) / "epochs.jsonl")
    pack(tmp_path / "more", tmp_path / "more.tar.xz")
    assert (tmp_path / "more.tar.xz").read_bytes() == (tmp_path / "run.tar.xz").read_bytes()
    assert [record["epoch"] for record in kept] == (list(range(1, 101)) if prune else [1, 42, 100])


def test_every_epoch_is_kept_in_which_the_trainer_measured_something_of_its_own(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    path = storage.trial_folder(run, "equal", 0) / "epochs.jsonl"
    record, *_ = storage.read_lines(path)
    storage.remove(path)
    measured = {5: {"along": {"share": 0.25}}, 6: {"along": {"share": 0.5}}}
    written = [{**record, "epoch": epoch, **measured.get(epoch, {})} for epoch in range(1, 11)]
    storage.append_lines(path, written)
    pack(run, tmp_path / "run.tar.xz")
    unpack(tmp_path / "run.tar.xz", tmp_path / "more")
    kept = [*storage.read_lines(storage.trial_folder(tmp_path / "more", "equal", 0) / "epochs.jsonl")]
    best = storage.read_json(storage.trial_folder(run, "equal", 0) / "result.json")["best_epoch"]
    assert kept == [each for each in written if each["epoch"] in (1, best, 5, 6, 10)]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda path: path.write_text("no archive"), ""),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: archive(path, {"study.json": "{}", "../study.json": "{}"}), r"it holds '\.\./study"),
        (lambda path: archive(path, {"study.json": "{}", "/tmp/study.json": "{}"}), "it holds '/tmp/study"),
        (lambda path: archive(path, {"study.json": "{}", "a/result.json@": "/etc"}), "it holds 'a/result"),
        (lambda path: archive(path, {"study.json": "{}", "virus.py": ""}), r"it holds 'virus\.py'"),
        (lambda path: archive(path, {"study.json": "{}", "C:\\study.json": ""}), "it holds 'C:"),
        (lambda path: archive(path, {"a/result.json": "{}"}), r"it holds no study\.json"),
    ],
)
def test_no_other_file_passes_for_a_packed_run(made, why, tmp_path):
    made(tmp_path / "run.tar.xz")
    said = (
        rf"run\.tar\.xz is no packed run \(.*{why}.*\)\. Give a file that `manyloss pack RUN` wrote, or leave"
    )
    with pytest.raises(LabError, match=said):
        unpack(tmp_path / "run.tar.xz", tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run.tar.xz"]


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_part_of_a_packed_run_is_none(packed, part, tmp_path):
    whole = packed.read_bytes()
    packed.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(LabError, match="is no packed run"):
        unpack(packed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_kept(packed, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(StorageError, match=r"mine has other files and no study\.json"):
        unpack(packed, tmp_path / "mine")
    with pytest.raises(LabError, match=r"'\S+mine' is not a run folder"):
        pack(tmp_path / "mine", tmp_path / "x.tar.xz")
    with pytest.raises(LabError, match="There is no folder"):
        pack(tmp_path / "nothing", tmp_path / "x.tar.xz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "packed"]


def test_a_damaged_result_is_named(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (storage.trial_folder(run, "equal", 0) / "result.json").write_text("{")
    with pytest.raises(StorageError, match=r"result\.json is damaged"):
        pack(run, tmp_path / "run.tar.xz")
    assert not (tmp_path / "run.tar.xz").exists()


def test_the_commands_pack_and_start_from(finished, tmp_path, manyloss):
    run = shutil.copytree(finished, tmp_path / "run")
    status, out, _ = manyloss("pack", run)
    assert status == 0
    assert f"6 trials of {run} are in {run}.tar.xz (" in out
    asked = ["compare", PROBLEM, "--methods", "equal,gradnorm-static,mgda", "--seeds", 2, "--jobs", 1]
    more = [*asked, "--out", tmp_path / "more", "--start-from", f"{run}.tar.xz"]
    status, out, _ = manyloss(*more)
    assert status == 0
    assert f"{tmp_path}/more starts from {run}.tar.xz." in out
    assert "3 methods x 2 seeds, 3 epochs each, 2 of 8 trials to run" in out
    status, out, _ = manyloss(*more)
    assert f"{tmp_path}/more is there already: it goes on, and {run}.tar.xz is not read." in out
    assert "0 of 8 trials to run" in out


def test_what_to_start_from_must_be_there_but_a_folder_may_lack_one(tmp_path):
    with pytest.raises(
        LabError, match=r"There is no packed run '\S+none\.tar\.xz'\. Give --start-from the file"
    ):
        compare(PROBLEM, ["equal"], out=tmp_path / "run", start_from=tmp_path / "none.tar.xz")
    assert list(tmp_path.iterdir()) == []
    text = io.StringIO()
    console = Console(file=text, width=1000)
    asked = {"epochs": 1, "seeds": 1, "jobs": 1, "out": tmp_path / "run", "console": console}
    compare(PROBLEM, ["equal"], start_from=tmp_path, **asked)
    name = "small_problem-epochs-1.tar.xz"
    assert f"{tmp_path / name} is not there: {tmp_path / 'run'} starts from nothing." in text.getvalue()


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "run.tar.xz").mkdir()
    with pytest.raises(StorageError, match=r"Cannot read \S+run\.tar\.xz: Is a directory"):
        unpack(tmp_path / "run.tar.xz", tmp_path / "run")
    assert not (tmp_path / "run").exists()
