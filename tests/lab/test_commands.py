"""The lab from Python: the same words as on the command line, and results one can work with."""

import csv
import io
import json
import shutil

import pytest
import torch
from rich.console import Console

from manyloss import lab
from manyloss.lab.analysis.comparison import ComparedMethods
from manyloss.lab.commands.requests import request_of
from manyloss.lab.runs.storage import write_settings
from tests.lab.small_problem import DigitAndInk


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A finished comparison; tests that change its folder take a copy."""
    out = tmp_path_factory.mktemp("compared") / "run"
    return lab.compare(DigitAndInk, ["gradnorm", "explode"], seeds=2, epochs=1, out=out, jobs=1)


def test_a_problem_class_is_compared(compared):
    results = compared
    assert results.report == results.folder / "report.html"
    rows = {row["method"]: row for row in results.rows()}
    assert set(rows) == {"equal", "gradnorm", "explode"}
    assert rows["explode"]["finished"] == 0
    assert 0 < rows["equal"]["digit/accuracy"] < 1
    assert rows["equal"]["outcome"] == "baseline"
    assert [trial["status"] for trial in results.trials()].count("diverged") == 2
    again = lab.report(results.folder)
    assert again.rows() == results.rows()
    assert "vs equal" in str(again)


def test_a_class_without_a_file_is_refused(tmp_path):
    made = type("Made", (lab.Problem,), {"__module__": "nowhere"})
    with pytest.raises(lab.LabError, match="The class Made is not in a file"):
        lab.compare(made, out=tmp_path)


@pytest.fixture
def results(mixed_run):
    return ComparedMethods.read(mixed_run)


def test_csv_has_a_row_per_method_or_trial(results, tmp_path):
    text = results.to_csv(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["method"] for row in rows] == [row.arm for row in results.table.rows]
    assert float(rows[0]["left/accuracy"]) == results.rows()[0]["left/accuracy"]
    trials = list(csv.DictReader(io.StringIO(results.to_csv(of="trials"))))
    assert len(trials) == len(results.run.trials)
    assert {trial["status"] for trial in trials} >= {"finished", "diverged", "crashed"}
    with pytest.raises(ValueError, match="of must be one of rows, trials, got 'columns'"):
        results.to_csv(of="columns")


def test_latex_is_escaped(wide_run, tmp_path):
    text = ComparedMethods.read(wide_run).to_latex()
    assert r"task 00 </script> \& <b>" in text
    assert text.count(r"\\") == 1 + len(ComparedMethods.read(wide_run).table.rows)
    assert r"$\pm$" in text
    assert "±" not in text


def test_a_dataframe(results):
    import pandas

    frame = results.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["method"]) == [row.arm for row in results.table.rows]


@pytest.mark.parametrize("seeds", [0, -1, 10**20, [], [1, -2], [2**32], "x"])
def test_seeds_that_cannot_be_are_refused(seeds):
    with pytest.raises(lab.LabError, match="is not understood"):
        lab.choose_seeds(seeds)


def test_options_reach_the_problem_and_the_name_of_the_folder():
    request = request_of(
        "gradnorm-nyuv2-kpts", data=None, data_root=None, options={"width": 4}, scale="smoke"
    )
    problem = request.source.load()
    assert (problem.width, problem.image, problem.train) == (4, 32, 8)
    assert request.words == ["width-4", "smoke"]


def test_a_scale_for_gpus_says_so_before_it_starts(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(lab.LabError, match="cifar10"):
        lab.reproduce(
            "great-mtl-cifar", scale="full", out=tmp_path / "a", data_root=tmp_path, console=console
        )
    assert "sized for a GPU, and takes days without one. Add --device cuda" in console.file.getvalue()
    assert not (tmp_path / "a").exists()


def test_fast_is_for_gpus(tmp_path):
    with pytest.raises(lab.LabError, match="--fast is for GPUs"):
        lab.compare(DigitAndInk, fast=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_folder_that_was_made_on_a_gpu_can_be_read_without_one(compared, tmp_path):
    root = shutil.copytree(compared.folder, tmp_path / "run")
    with pytest.raises(lab.LabError, match="sees no GPU"):
        lab.compare(DigitAndInk, ["equal"], seeds=1, epochs=1, out=tmp_path / "other", device="cuda")
    for path in root.glob("trials/*/*/settings.json"):
        trial = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: value for name, value in trial.items() if name not in ("hash", "environment")}
        write_settings(path.parent, {**kept, "device": "cuda"}, trial["environment"])
    study = json.loads((root / "study.json").read_text(encoding="utf-8"))
    study["settings"]["device"] = "cuda"
    (root / "study.json").write_text(json.dumps(study), encoding="utf-8")
    again = lab.compare(DigitAndInk, ["equal"], seeds=1, epochs=1, out=root, device="cuda", jobs=1)
    assert again.rows()[0]["finished"] == 2
