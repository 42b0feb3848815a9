"""``--fast``: bfloat16, channels last, compiled; here with the compiler's tracing, without its kernels."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch

from manyloss.lab import training
from manyloss.lab.recipes import recipe_named
from manyloss.lab.recipes.great_mtl_cifar import NoisyCifar
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.study import Study
from manyloss.lab.runs.trial import Trial

# The tracer looks at .grad of what it traces, and uses what it deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SLOW = pytest.mark.slow
#: Whether a step of the arm goes through a part of the network once.
COMPILED = [
    pytest.param("great-defense-cifar", "baseline", True, marks=SLOW),
    pytest.param("great-defense-cifar", "fgsm-training", True, marks=SLOW),
    pytest.param("great-defense-cifar", "great-greace", True, marks=SLOW),
    pytest.param("great-distill-cnn-5", "great", True, marks=SLOW),
    # The lab records gradients at the encoder's last layer, which goes through it once for each loss.
    ("great-mtl-nyuv2", "great", False),
    ("gradnorm-nyuv2-seg", "gradnorm", False),
    ("cosreg-nyuv2", "cosreg", False),
]


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    monkeypatch.setattr(training, "COMPILER", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def result_of(name, arm, folder, *, fast):
    options = dict(recipe_named(name).scales["smoke"])
    options |= {"train": 64} if options.get("data") == "digits" else {}
    del options["epochs"], options["seeds"]
    source = Source(name, options)
    for spec in Study.plan(source, [arm], [0], folder, epochs=1, fast=fast).trials():
        result = Trial(spec).run()
        assert result["status"] == "finished", result["reason"]
        if spec.arm == arm:
            wanted = result
    return wanted


def compiled_and_plain(name, arm, folder, monkeypatch):
    """Which modules were compiled, and the test losses of both; only compiled, in full precision.

    Channels last, too, and traced, ends torch 2.13 on a CPU.
    """
    made, compile_in_place = [], torch.nn.Module.compile

    def counted(module, **settings):
        made.append(type(module).__name__)
        compile_in_place(module, **settings)

    monkeypatch.setattr(torch.nn.Module, "compile", counted)
    monkeypatch.setattr(training.Training, "_precision", lambda _: nullcontext())
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)
    plain = result_of(name, arm, folder / "plain", fast=False)
    assert made == []
    fast = result_of(name, arm, folder / "fast", fast=True)
    return made, fast["test_losses"], plain["test_losses"]


@pytest.mark.parametrize(("name", "arm", "compiled"), COMPILED)
def test_what_is_compiled_learns_the_same(name, arm, compiled, tmp_path, monkeypatch):
    made, fast, plain = compiled_and_plain(name, arm, tmp_path, monkeypatch)
    assert bool(made) == compiled
    assert fast == pytest.approx(plain, rel=1e-3)


def test_an_encoder_at_which_nothing_is_read_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(NoisyCifar, "shared_params", lambda *_: None)
    made, fast, plain = compiled_and_plain("great-mtl-cifar", "great", tmp_path, monkeypatch)
    assert len(made) == 2  # of equal weights and of GREAT
    assert fast == pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "arm"),
    [("great-mtl-cifar", "great"), ("gradnorm-nyuv2-seg", "gradnorm"), ("cosreg-nyuv2", "cosreg")],
)
def test_in_bfloat16_it_learns_other_numbers_nearby(name, arm, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "COMPILER", "eager")
    plain = result_of(name, arm, tmp_path / "plain", fast=False)["test_losses"]
    fast = result_of(name, arm, tmp_path / "fast", fast=True)["test_losses"]
    assert fast != plain
    assert all(math.isfinite(value) for value in fast.values())
    assert fast == pytest.approx(plain, rel=0.1)
