"""Machines: which trained the trials of a folder, from what its environment says."""

import shutil

import pytest

from manyloss.lab.analysis.board import Entry
from manyloss.lab.analysis.comparison import ComparedMethods
from manyloss.lab.runs import storage
from manyloss.lab.runs.machines import environment, machines_in, processor, words_of_machine

HERE = {"processor": "AMD EPYC", "torch": "2.13.0"}
THERE = {"processor": "Some Xeon", "torch": "2.6.0"}


def test_an_environment_is_of_one_machine():
    (machine,) = machines_in(environment(1))
    assert machine["processor"] == processor() != ""
    assert words_of_machine(machine) == f"{machine['processor']}, torch {machine['torch']}"


@pytest.mark.parametrize(
    ("environment", "machines"),
    [
        ({}, []),
        ({**HERE, "cores": 2}, [HERE]),
        ({**HERE, "machines": [THERE, HERE]}, [THERE, HERE]),
        ({**HERE, "machines": [THERE, HERE, THERE]}, [THERE, HERE]),
        ({**HERE, "machines": "a word"}, [HERE]),
        ({**HERE, "machines": [None, 3, {"torch": 2}]}, [{"torch": "2"}]),
    ],
    ids=["nothing", "one", "two", "twice", "damaged", "half damaged"],
)
def test_machines_of_an_environment(environment, machines):
    assert machines_in(environment) == machines


def test_the_board_names_all_machines(finished_run, tmp_path):
    """And once where both have the same version."""
    known = storage.read_json(finished_run / "study.json")
    known["environment"]["machines"] = [HERE, {**THERE, "torch": "2.13.0"}]
    root = shutil.copytree(finished_run, tmp_path / "run")
    storage.write_json(root / "study.json", known)
    run = Entry.of(ComparedMethods.read(root), "", 0).run
    assert (run["processor"], run["torch"]) == ("AMD EPYC, Some Xeon", "2.13.0")
