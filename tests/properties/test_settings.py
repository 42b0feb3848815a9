"""Every setting of everything that trains refuses what it cannot be when it is made, and says its own name.

A setting that comes from a file or a command line is easily a text, and what is wrong must not show first
in the middle of a training, or never.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from manyloss import MultiLoss, adversarial, method
from manyloss.adversarial import ModelMethod
from manyloss.weighting import STCH, GradNorm, PCGrad, Static
from tests.properties.methods import CASES

NETWORKS = ("model", "auxiliary", "student", "teacher", "discriminator")
#: Settings that may be any text: a loss's name.
NAMES = {"residual", "target", "loss of Primary"}
#: What no setting can be.
WRONG = (object(), [object()], "no such thing", {"a": object()}, float("nan"))


def _made() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """What is made, and what has to be given."""
    yield "MultiLoss", MultiLoss, {}
    for case in CASES:
        yield case.name, case.cls, case.arguments(3)
    for name in adversarial.__all__:
        found = getattr(adversarial, name)
        if inspect.isclass(found) and issubclass(found, ModelMethod) and not inspect.isabstract(found):
            settings = inspect.signature(found).parameters
            yield name, found, {name: nn.Linear(2, 2) for name in NETWORKS if name in settings}


def _settings() -> list[Any]:
    return [
        pytest.param(make, given, setting, name, id=f"{name}-{setting}")
        for name, make, given in _made()
        for setting in inspect.signature(make).parameters
    ]


@pytest.mark.parametrize("wrong", WRONG, ids=["object", "list", "text", "mapping", "nan"])
@pytest.mark.parametrize(("make", "given", "setting", "name"), _settings())
def test_it_names_itself(make: Any, given: dict[str, Any], setting: str, name: str, wrong: Any) -> None:
    if isinstance(wrong, str) and {setting, f"{setting} of {name}"} & NAMES:
        make(**{**given, setting: wrong})
        return
    with pytest.raises((TypeError, ValueError)) as caught:
        make(**{**given, setting: wrong})
    assert re.search(rf"\b{setting}\b", str(caught.value)), str(caught.value)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.int64(1), torch.tensor(0.5)])
def test_a_number_of_any_library_is_one(value: Any) -> None:
    assert GradNorm(alpha=value).alpha == value


@pytest.mark.parametrize("value", ["0.5", b"1", True, None, np.True_, torch.ones(2), 1j])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(TypeError, match=r"alpha must be a number, got "):
        GradNorm(alpha=value)


def test_a_text_with_a_number_is_called_a_text() -> None:
    with pytest.raises(TypeError, match=r"alpha must be a number, got the text '0\.5'\."):
        GradNorm(alpha="0.5")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf")])
def test_a_number_without_end(value: Any) -> None:
    with pytest.raises(ValueError, match="alpha must be a finite number, 0 or more"):
        GradNorm(alpha=value)


@pytest.mark.parametrize("values", [[1.0, 2.0], np.array([1.0, 2.0]), torch.tensor([1.0, 2.0])])
def test_one_value_per_loss_of_any_library(values: Any) -> None:
    for made, setting in ((Static(values), "weights"), (STCH(preferences=values), "preferences")):
        made.start(["a", "b"])
        assert getattr(made.state, setting) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("graddrop:sum_over_batch=no", "sum_over_batch must be True or False, got 'no'"),
        ("gradnorm:alpha=high", "alpha must be a number, got the text 'high'"),
        ("gradnorm:stuck=5", r"stuck must be two values such as \(200, 1e-3\), got 5"),
        ("ntk:probes=1.5", r"probes must be a whole number, got 1\.5"),
        ("static:a=high", "weights of Static must be a number, got the text 'high'"),
    ],
)
def test_so_does_one_that_is_given_as_text(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        method(text)


def test_seeds_are_those_of_torch() -> None:
    for seed in (-1, 0, 2**64 - 1, np.int64(3)):
        method("pcgrad", seed=seed)
    with pytest.raises(ValueError, match=r"seed must be below 2\*\*64; received 18446744073709551616"):
        method("pcgrad", seed=2**64)
    with pytest.raises(TypeError, match=r"seed must be a whole number, got 1\.5"):
        PCGrad(seed=1.5)  # type: ignore[arg-type]
