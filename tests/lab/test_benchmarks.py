"""`manyloss bench`: what a program prints is kept, and what one cannot measure here stays."""

import json

import pytest

from manyloss.lab import benchmarks
from manyloss.lab.checks import LabError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "FOLDER", tmp_path)
    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path / "results.json")
    return tmp_path


def kept(folder):
    return json.loads((folder / "results.json").read_text())


def test_figures_are_kept_with_date_and_machine(folder):
    (folder / "speed.py").write_text("print('a word'); print('{\"ratio\": 1.5}')")
    assert list(benchmarks.run()) == [{"benchmark": "speed", "ratio": 1.5}]
    assert kept(folder)["speed"]["figures"] == [{"ratio": 1.5}]
    assert {"date", "torch", "processor"} < set(kept(folder)["speed"])


def test_one_that_measures_nothing_here_keeps_what_it_had(folder):
    before = {"gpu": {"figures": [{"ratio": 1.1}]}}
    (folder / "results.json").write_text(json.dumps(before))
    (folder / "gpu.py").write_text("print('No GPU: nothing is measured.')")
    assert list(benchmarks.run(["gpu"])) == []
    assert kept(folder) == before


def test_an_unknown_one_and_one_that_fails_are_said(folder):
    (folder / "speed.py").write_text("raise SystemExit(3)")
    with pytest.raises(LabError, match="There is no benchmark 'sped'"):
        list(benchmarks.run(["sped"]))
    with pytest.raises(LabError, match="Benchmark 'speed' ended with exit code 3"):
        list(benchmarks.run(["speed"]))
    assert not (folder / "results.json").exists()
