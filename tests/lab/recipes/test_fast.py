"""``--fast``: bfloat16, channels last, compiled; here with the compiler's tracing, without its kernels."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch

from manyloss.lab.recipes import recipe_named
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.study import Study
from manyloss.lab.runs.trial import Trial
from manyloss.lab.training import training

# The tracer looks at .grad of what it traces, and uses what it deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SLOW = pytest.mark.slow
#: Whether a step of the arm goes through a part of the network once.
COMPILED = [
    ("great-defense-digits", "great-greace", True),
    pytest.param("great-defense-cifar", "baseline", True, marks=SLOW),
    pytest.param("great-defense-cifar", "fgsm-training", True, marks=SLOW),
    pytest.param("great-defense-cifar", "great-greace", True, marks=SLOW),
    pytest.param("great-distill-cnn-5", "great", True, marks=SLOW),
    # What the lab records at the encoder's last layer, a loss at a time, goes through no compiled graph.
    pytest.param("great-mtl-nyuv2", "great", True, marks=SLOW),
    ("gradnorm-nyuv2-seg", "equal", True),
    ("graddrop-celeba", "graddrop", True),
    pytest.param("graddrop-transfer", "graddrop", True, marks=SLOW),
    pytest.param("graddrop-pointpillars", "graddrop", True, marks=SLOW),
    pytest.param("graddrop-pointpillars", "mgda", True, marks=SLOW),
    pytest.param("gradnorm-mtfl", "uncertainty", True, marks=SLOW),
    ("great-mtl-cifar", "equal", True),
    # GradNorm's W and CosReg's layer are the encoder's last.
    ("gradnorm-nyuv2-seg", "gradnorm", False),
    ("cosreg-nyuv2", "cosreg", False),
    # It reads gradients at all parameters, and differentiates by its inputs.
    ("burgers", "pcgrad", False),
]


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    monkeypatch.setattr(training, "COMPILER", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def result_of(name, arm, folder, made, *, fast):
    """Of the arm's own trial, after those that it needs; what these have ``made`` is left out."""
    options = dict(recipe_named(name).scales["smoke"])
    options |= {"train": 64} if options.get("data") == "digits" else {}
    del options["epochs"], options["seeds"]
    source = Source(name, options)
    for spec in Study.plan(source, [arm], [0], folder, epochs=1, fast=fast).trials():
        made.clear()
        result = Trial(spec).run()
        assert result["status"] == "finished", result["reason"]
    assert spec.arm == arm
    return result


@pytest.mark.parametrize(("name", "arm", "compiled"), COMPILED)
def test_what_is_compiled_learns_the_same(name, arm, compiled, tmp_path, monkeypatch):
    """In full precision, compiled is no other numbers. (Channels last, too, ends torch 2.13 on a CPU.)"""
    made, compile_in_place = [], torch.nn.Module.compile

    def counted(module, **settings):
        made.append(type(module).__name__)
        compile_in_place(module, **settings)

    monkeypatch.setattr(torch.nn.Module, "compile", counted)
    monkeypatch.setattr(training.Training, "_precision", lambda _: nullcontext())
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)
    plain = result_of(name, arm, tmp_path / "plain", [], fast=False)
    assert made == []
    fast = result_of(name, arm, tmp_path / "fast", made, fast=True)
    assert bool(made) == compiled
    assert fast["test_losses"] == pytest.approx(plain["test_losses"], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "arm"),
    [("great-mtl-cifar", "great"), ("gradnorm-nyuv2-seg", "gradnorm"), ("cosreg-nyuv2", "cosreg")],
)
def test_in_bfloat16_it_learns_other_numbers_nearby(name, arm, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "COMPILER", "eager")
    plain = result_of(name, arm, tmp_path / "plain", [], fast=False)["test_losses"]
    fast = result_of(name, arm, tmp_path / "fast", [], fast=True)["test_losses"]
    assert fast != plain
    assert all(math.isfinite(value) for value in fast.values())
    assert fast == pytest.approx(plain, rel=0.1)
