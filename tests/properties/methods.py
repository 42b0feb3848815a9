"""The list of methods, taken from the families' `__all__`: a new method joins every property by existing.

Some tables are kept by hand. REQUIRED gives constructor arguments to a class that needs them (a test
fails when an entry is missing). The others name the exceptions from a contract of design.md.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor, nn

from manyloss import MultiLoss
from manyloss.catalog import method_classes
from tests.problems import Network, names

REQUIRED: dict[str, Callable[[int], dict[str, Any]]] = {
    "Static": lambda count: {"weights": {name: 1.0 + 0.25 * i for i, name in enumerate(names(count))}},
    "GradientPenalty": lambda count: {"weight": 0.3},
}
# With one loss these give their own formula, not a plain backward.
NOT_PLAIN_FOR_ONE_LOSS = {
    "CAGrad",
    "FairGrad",
    "GradientPenalty",
    "IMTLL",
    "InitialLoss",
    "LogLoss",
    "NashMTL",
    "Static",
    "Uncertainty",
}
# Scaling all gradients by c scales what a gradient weighting writes by c, except for
NOT_SCALE_EQUIVARIANT = {"FairGrad", "NashMTL"}
# and these do so, too.
SCALE_EQUIVARIANT = {"Equal", "Sum", "GradDrop", "DBMTL"}
# The order of the losses decides the draw: permuting them permutes nothing only in distribution.
RANDOM_BY_LOSS = {"Random", "PCGrad", "IterativePCGrad", "GradVac"}
# Without a name these take the first loss for the one that counts, so the order decides.
TAKES_THE_FIRST = {"MetaBalance", "LearningRateAnnealing", "Primary"}
# A classifier with an output per loss starts from one draw: the order decides which output is whose.
DRAWS_ONCE_BY_LOSS = {"GradientAlignment"}


@dataclass(frozen=True)
class MethodCase:
    """A public class of a family, and how to make one."""

    family: str
    cls: type[nn.Module]

    @property
    def name(self) -> str:
        return self.cls.__name__

    def arguments(self, count: int, seed: int = 7) -> dict[str, Any]:
        arguments = REQUIRED.get(self.name, lambda _: {})(count)
        if "seed" in inspect.signature(self.cls).parameters:
            arguments["seed"] = seed
        return arguments

    def make(self, count: int = 3, seed: int = 7) -> nn.Module:
        return self.cls(**self.arguments(count, seed))

    def multi(self, count: int = 3, seed: int = 7, **keywords: Any) -> MultiLoss:
        return self.wrap(self.make(count, seed), **keywords)

    def wrap(self, method: nn.Module, **keywords: Any) -> MultiLoss:
        """A MultiLoss with the method in its place."""
        if self.family == "weighting":
            return MultiLoss(weighting=method, **keywords)
        if self.family == "aggregation":
            return MultiLoss(aggregator=method, **keywords)
        return MultiLoss(penalties=[method], **keywords)

    @property
    def scales_with_gradients(self) -> bool:
        """Whether scaling all gradients scales the result."""
        return self.name in SCALE_EQUIVARIANT or (
            self.weighs_gradients and self.name not in NOT_SCALE_EQUIVARIANT
        )

    @property
    def needs_features(self) -> bool:
        """Whether it works at the features alone."""
        return self.cls.needs.features

    @property
    def weighs_losses(self) -> bool:
        return self.cls.family == "loss weighting"

    @property
    def weighs_gradients(self) -> bool:
        return self.cls.family == "gradient weighting"

    @property
    def reads_gradients(self) -> bool:
        """Whether a step with this method reads one gradient per loss."""
        return (
            self.weighs_gradients
            or self.family == "penalties"
            or (self.family == "aggregation" and self.name != "Sum")
            or (self.weighs_losses and self.cls.needs.norms)
        )

    @property
    def measures_at_shared_params(self) -> bool:
        """With features AND shared parameters given, these measure at the latter."""
        return self.weighs_losses or self.family == "penalties"

    def network(self, count: int = 3) -> Network:
        """The plain network, where its layout does not matter."""
        return Network(count)

    def place(self, network: Network, features: list[Tensor], where: str = "usual") -> dict[str, Any]:
        """The keywords of `backward`: "features", "shared_params" (alone), or what the method is made for."""
        given: list[Tensor] | Tensor = features if len(features) > 1 else features[0]
        if where == "shared_params":
            return {"shared_params": network.last_layer()}
        if where == "features" or not self.measures_at_shared_params:
            return {"features": given}
        return {"features": given, "shared_params": network.last_layer()}

    def step(self, multi: MultiLoss, network: Network, step: int = 0, where: str = "usual", **keywords: Any):
        """One backward on the batch of this step; the gradients it wrote and its result."""
        network.zero_grad()
        features, losses = network.forward(step)
        result = multi.backward(losses, **self.place(network, features, where), **keywords)
        return network.gradients(), result


FAMILIES = {
    "loss weighting": "weighting",
    "gradient weighting": "weighting",
    "aggregator": "aggregation",
    "penalty": "penalties",
}
CASES = [MethodCase(FAMILIES[cls.family], cls) for cls in method_classes()]
every_method = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def methods(keep: Callable[[MethodCase], bool]) -> pytest.MarkDecorator:
    """The methods a property speaks of."""
    chosen = [case for case in CASES if keep(case)]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


def missing_arguments(case: MethodCase) -> list[str]:
    """Required constructor arguments that REQUIRED does not give."""
    given = case.arguments(2)
    return [
        name
        for name, parameter in inspect.signature(case.cls).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and name not in given
    ]


def flat(state: dict[str, Any]) -> dict[str, Any]:
    """A state_dict in a form that == can compare, NaN (not seen yet) included."""
    return {key: repr(value.tolist()) if isinstance(value, Tensor) else value for key, value in state.items()}
