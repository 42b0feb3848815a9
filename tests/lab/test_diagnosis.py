"""`manyloss diagnose` on a real small problem, from records, and where it cannot be done."""

import json
import re
from pathlib import Path

import pytest
import torch
from plotly.offline import get_plotlyjs
from rich.console import Console
from torch import nn

from manyloss import MultiLoss
from manyloss.diagnostics import ConflictRecorder, read_records
from manyloss.lab import checks
from manyloss.lab.diagnosis import diagnose_problem, diagnose_records, encoder_layers, print_diagnosis
from manyloss.lab.runs.source import Source
from tests.problems import Network

OPPOSED = """
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanSquaredError
from manyloss.lab import Problem, Splits, TensorSplit

class Opposed(Problem):
    '''Two tasks that want opposite outputs of one shared number.'''
    name = "opposed"
    batch_size = 16
    losses = {"up": F.mse_loss, "down": F.mse_loss}
    metrics = {"up": MeanSquaredError, "down": MeanSquaredError}

    def datasets(self, seed):
        x = torch.randn(320, 4, generator=torch.Generator().manual_seed(0))
        y = x.sum(1, keepdim=True)
        split = TensorSplit(x, {"up": y, "down": -y})
        return Splits(split, split, split)

    def encoder(self):
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def heads(self):
        return {"up": nn.Identity(), "down": nn.Identity()}
"""


@pytest.fixture
def opposed(tmp_path) -> Path:
    path = tmp_path / "opposed.py"
    path.write_text(OPPOSED)
    return path


def test_losses_that_want_opposites_conflict(opposed, tmp_path) -> None:
    seen = []
    found = diagnose_problem(
        Source(str(opposed)), tmp_path / "out", epochs=2, progress=lambda done, losses: seen.append(done)
    )
    assert found.diagnosis.verdict == "strong"
    assert found.diagnosis.answer == "Yes: the losses conflict strongly."
    assert found.diagnosis.pairs[0].pair == "up|down"
    assert found.diagnosis.pairs[0].mean < -0.8
    assert set(found.diagnosis.layers) == {"Linear 0", "Linear 2"}
    assert (
        "opposed: plain sum of the losses, 2 epochs, seed 0, 40 records, one per step, at the features"
        in found.note
    )
    assert seen[-1] == 2
    assert read_records(tmp_path / "out" / "conflict.jsonl") == json.loads(json.dumps(found.records))

    page = found.page.read_text()
    assert found.page == tmp_path / "out" / "diagnose.html"
    assert page.count('role="img"') == 3
    assert "<span>up|down</span>" in page
    assert '<th scope="row">Linear 2</th>' in page
    assert not re.search(r"(src|href)=.https?:", page.replace(get_plotlyjs(), ""))

    console = Console(record=True, width=100)
    print_diagnosis(found, console)
    text = " ".join(console.export_text().split())
    assert "It is worth trying methods that merge gradients" in text
    assert "'up' against 'down': mean cosine" in text


def test_the_file_of_a_recorder_is_diagnosed_too(tmp_path) -> None:
    network, multi, path = Network(3), MultiLoss(), tmp_path / "conflict.jsonl"
    with ConflictRecorder(multi, every=1, path=path):
        for step in range(12):
            features, losses = network.forward(step)
            multi.backward(losses, features=features[0])
    found = diagnose_records(path, tmp_path)
    assert found.diagnosis.verdict in ("none", "mild", "strong")
    assert found.page.exists()


def test_a_file_whose_last_line_was_cut_is_read_up_to_there(tmp_path) -> None:
    network, multi, path = Network(3), MultiLoss(), tmp_path / "conflict.jsonl"
    with ConflictRecorder(multi, every=1, path=path):
        for step in range(12):
            features, losses = network.forward(step)
            multi.backward(losses, features=features[0])
    path.write_bytes(path.read_bytes()[:-20])
    assert len(diagnose_records(path, tmp_path).records) == 11


def test_another_file_is_refused(tmp_path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"epoch": 1}\n')
    with pytest.raises(checks.LabError, match="holds no records of a ConflictRecorder"):
        diagnose_records(path, tmp_path)
    with pytest.raises(checks.LabError, match="Cannot read"):
        diagnose_records(tmp_path / "missing.jsonl", tmp_path)


def test_a_recipe_that_trains_without_multiloss_is_refused(tmp_path) -> None:
    source = Source("graddrop-sines", {"runs": 2, "steps_per_epoch": 3})
    with pytest.raises(checks.LabError, match="graddrop-sines trains without MultiLoss"):
        diagnose_problem(source, tmp_path, epochs=1)


def test_a_training_that_fails_says_so(opposed, tmp_path) -> None:
    opposed.write_text(OPPOSED.replace("x.sum(1, keepdim=True)", "x.sum(1, keepdim=True)[:, [0, 0, 0]]"))
    opposed.write_text(
        opposed.read_text().replace('F.mse_loss, "down"', 'lambda a, b: a.no_such_thing, "down"')
    )
    with pytest.raises(
        checks.LabError, match=r"opposed cannot be diagnosed, its training failed: .*no_such_thing"
    ):
        diagnose_problem(Source(str(opposed)), tmp_path / "out", epochs=1)


def test_layers_of_a_deep_encoder_are_spread() -> None:
    model = nn.Module()
    model.encoder = nn.Sequential(
        *[m for _ in range(20) for m in (nn.Linear(2, 2), nn.ReLU(), nn.LayerNorm(2))]
    )
    layers = list(encoder_layers(model))
    assert len(layers) == 8
    assert (layers[0], layers[-1]) == ("Linear 0", "Linear 57")
    assert encoder_layers(nn.Linear(1, 1)) == {}
    assert torch.is_grad_enabled()


def test_the_command_reads_a_recorders_file(tmp_path) -> None:
    from typer.testing import CliRunner

    from manyloss.cli import app

    network, multi, path = Network(2), MultiLoss(), tmp_path / "conflict.jsonl"
    with ConflictRecorder(multi, every=1, path=path):
        for step in range(3):
            features, losses = network.forward(step)
            multi.backward(losses, features=features[0])
    result = CliRunner().invoke(app, ["diagnose", str(path), "--out", str(tmp_path / "page")])
    assert result.exit_code == 0, result.output
    assert "3 records are too few to tell" in " ".join(result.output.split())
    assert (tmp_path / "page" / "diagnose.html").exists()
