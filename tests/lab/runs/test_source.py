"""The user's files are read once: what runs is what was read, and what changed is said in words."""

import sys
from pathlib import Path

import pytest
from rich.console import Console

from manyloss.lab import diagnose
from manyloss.lab.checks import BrokenProblemError, LabError, StorageError
from manyloss.lab.runs import storage
from manyloss.lab.runs.progress import PlainDisplay
from manyloss.lab.runs.source import MAIN, Source, read_texts
from manyloss.lab.runs.study import Study
from manyloss.lab.runs.trial import Trial
from manyloss.lab.runs.tryout import try_out
from tests.lab.runs.test_trial import PROBLEM

SMALL = """
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanSquaredError
from manyloss.lab import Problem, Splits, TensorSplit
from my_rates import RATE

class Small(Problem):
    name = "small"
    epochs = 1
    losses = {"up": F.mse_loss, "down": F.mse_loss}
    metrics = {"up": MeanSquaredError, "down": MeanSquaredError}
    slope = 1.0  # the slope

    def datasets(self, seed):
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        split = TensorSplit(x, {"up": self.slope * x.sum(1, keepdim=True), "down": x[:, :1]})
        return Splits(split, split, split)

    def encoder(self):
        return nn.Linear(4, 2)

    def heads(self):
        return {"up": nn.Linear(2, 1), "down": nn.Linear(2, 1)}

    def optimizer(self, parameters):
        return torch.optim.SGD(parameters, lr=RATE)
"""


@pytest.fixture
def small(tmp_path):
    (tmp_path / "my_rates.py").write_text("RATE = 0.1\n")
    path = tmp_path / "small.py"
    path.write_text(SMALL)
    return path


def plan(path, root, arms=("equal",)):
    return Study.plan(Source(str(path)), arms, [0], root)


def kept(study):
    """As `Study.run` does before the first trial."""
    storage.make_folder(study.root)
    study.source = study.source.keep(study.root / "source")
    study.write()
    return study


def test_the_text_and_the_users_modules_are_read(small):
    texts = read_texts(small)
    assert set(texts) == {MAIN, "my_rates"}
    assert texts["my_rates"].text == "RATE = 0.1\n"
    identity = Source(str(small)).identity()
    assert set(identity["modules"]) == {"my_rates"}


def test_packages_are_followed_and_installed_ones_are_not(tmp_path):
    package = tmp_path / "mine" / "deep"
    package.mkdir(parents=True)
    (tmp_path / "mine" / "__init__.py").write_text("from .deep import a\n")
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("from . import b\nfrom ..side import c\nimport numpy\n")
    (package / "b.py").write_text("import os.path\n")
    (tmp_path / "mine" / "side.py").write_text("c = 1\n")
    (tmp_path / "main.py").write_text("import mine, torch, manyloss.lab, nowhere.at.all\n")
    assert set(read_texts(tmp_path / "main.py")) == {
        MAIN,
        "mine",
        "mine.deep",
        "mine.deep.a",
        "mine.deep.b",
        "mine.side",
    }


def test_folders_without_an_init_are_packages_too(small, tmp_path):
    deep = tmp_path / "tools" / "data"
    deep.mkdir(parents=True)
    (deep / "rates.py").write_text("RATE = 0.1\n")
    small.write_text(SMALL.replace("from my_rates", "from tools.data.rates"))
    assert set(read_texts(small)) == {MAIN, "tools.data.rates"}
    source = Source(str(small)).hold().keep(tmp_path / "source")
    (deep / "rates.py").write_text("RATE = 99.0\n")
    problem = source.load()
    assert problem.optimizer(problem.model().parameters()).defaults["lr"] == 0.1


def test_a_file_edited_while_a_study_is_on_changes_nothing(small, tmp_path):
    study = kept(plan(small, tmp_path / "run"))
    small.write_text(SMALL.replace("slope = 1.0", "slope = 9.0"))
    (tmp_path / "my_rates.py").write_text("RATE = 99.0\n")
    (spec,) = study.trials()
    assert spec.source.load().slope == 1.0
    study.run(PlainDisplay(Console(quiet=True)))
    result = storage.read_result(spec.folder)
    assert result["status"] == "finished"
    assert result["test"]["up/mean squared error"] < 10

    with pytest.raises(StorageError) as error:
        plan(small, tmp_path / "run")
    text = str(error.value)
    assert "small.py (-    slope = 1.0  # the slope / +    slope = 9.0  # the slope)" in text
    assert "my_rates.py (-RATE = 0.1 / +RATE = 99.0)" in text
    # Both ways out work: another folder, and the text as it was.
    assert plan(small, tmp_path / "other").missing()
    assert str(tmp_path / "run" / "source" / "small.py") in text
    assert plan(tmp_path / "run" / "source" / "small.py", tmp_path / "run").missing() == []


def test_the_files_folder_is_on_the_path_while_its_code_runs_and_not_longer(small, tmp_path):
    """A module that no import statement names is found there, and only then."""
    (tmp_path / "my_slope.py").write_text("SLOPE = 2.0\n")
    asked = "        import importlib\n        importlib.import_module('my' + '_slope')\n"
    small.write_text(SMALL.replace("        x = torch.randn", f"{asked}        x = torch.randn"))
    before = list(sys.path)
    source = Source(str(small))
    problem = source.load()
    assert sys.path == before
    with pytest.raises(BrokenProblemError, match="No module named 'my_slope'"):
        try_out(problem, 0)
    with source.on_path():
        try_out(problem, 0)
    del sys.modules["my_slope"]
    assert Trial(plan(small, tmp_path / "run").trials()[0]).run()["status"] == "finished"
    assert sys.path == before
    del sys.modules["my_slope"]
    diagnose(small, epochs=1, out=tmp_path / "diagnosis")
    assert sys.path == before
    del sys.modules["my_slope"]


def test_what_a_file_puts_on_the_path_stays_there(small, tmp_path, monkeypatch):
    """A file may add a folder when it is imported, and import from it when its data are read."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "my_offset.py").write_text("OFFSET = 1.0\n")
    asked = "        import importlib\n        importlib.import_module('my' + '_offset')\n"
    text = SMALL.replace("        x = torch.randn", f"{asked}        x = torch.randn")
    small.write_text(f"import sys\nsys.path.append({str(tmp_path / 'elsewhere')!r})\n{text}")
    assert Trial(plan(small, tmp_path / "run").trials()[0]).run()["status"] == "finished"
    assert str(tmp_path) not in sys.path
    del sys.modules["my_offset"]


def test_a_comment_changes_nothing(small, tmp_path):
    kept(plan(small, tmp_path / "run"))
    small.write_text("# seen again\n" + SMALL.replace("# the slope", "# of the line"))
    study = plan(small, tmp_path / "run")
    assert study.source.kept == tmp_path / "run" / "source"
    assert study.source.identity() == storage.read_json(tmp_path / "run" / "study.json")["settings"]["source"]


def test_a_module_that_is_new_or_gone_is_named(small, tmp_path):
    kept(plan(small, tmp_path / "run"))
    (tmp_path / "more.py").write_text("X = 1\n")
    small.write_text(SMALL.replace("from my_rates import RATE", "from more import X as RATE"))
    with pytest.raises(StorageError, match=r"my_rates.py is no longer imported; more.py is new"):
        plan(small, tmp_path / "run")


def test_the_file_is_where_it_was_for_itself(tmp_path):
    path = tmp_path / "here.py"
    path.write_text(SMALL.replace("from my_rates import RATE", "RATE = 0.1; WHERE = __file__"))
    study = kept(plan(path, tmp_path / "run"))
    import sys

    assert str(path) == sys.modules[type(study.trials()[0].source.load()).__module__].WHERE


def test_a_file_needs_no_ending_and_must_be_text(tmp_path):
    path = tmp_path / "problem"
    path.write_text(Path(PROBLEM).read_text())
    assert Source(str(path)).load().name == "digit-and-ink"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabError, match=r"is not UTF-8 text\. Save it as UTF-8"):
        Source(str(path)).load()


def test_where_the_data_of_a_recipe_lie_decides_nothing(small):
    here, there = (Source("cosreg-two-digits", {"data_root": place, "pairs": 9}) for place in ("/a", "/b"))
    assert here.identity() == there.identity() == {"recipe": "cosreg-two-digits", "options": {"pairs": 9}}
    mine, other = (Source(str(small), {"data_root": place}) for place in ("/a", "/b"))
    assert mine.identity() != other.identity()  # a user's file may take another set from another place
