"""What a step has to do, and how: a pure function of what the methods need and what the graph allows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal, NamedTuple

Place = Literal["features", "shared_params", "virtual_layer"]
Strategy = Literal["plain", "one_backward", "per_loss", "direct", "folded"]
Read = Literal["auto", "one_backward", "per_loss"]


@dataclass(frozen=True)
class Needs:
    """What a method asks of a step; the needs of several are joined with ``|``.

    Attributes:
        values: the losses as numbers on the host.
        norms: ||g_i||, where gradients are measured.
        gramian: <g_i, g_j>, where gradients are measured.
        gradients: the gradients themselves, where they are merged.
        differentiable: the gradients where they are measured, with their graph (a double backward).
        replaces: what arrives at the shared part is replaced.
        features: the method is defined at features only.

    """

    values: bool = False
    norms: bool = False
    gramian: bool = False
    gradients: bool = False
    differentiable: bool = False
    replaces: bool = False
    features: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(*[getattr(self, f.name) or getattr(other, f.name) for f in fields(self)])

    @property
    def place(self) -> bool:
        """Whether the method needs a place where gradients are read."""
        return self.norms or self.gramian or self.gradients or self.differentiable or self.replaces


class Facts(NamedTuple):
    """What this step's input and graph allow.

    Attributes:
        features: features were passed.
        params: shared parameters were passed.
        separate: one backward can tell the losses apart, on all ranks.
        why_not_separate: what stands against it on this rank, in words.
        exclusive: every parameter outside the shared ones is reached by one loss only.
        listened: something listens to an ordinary backward: DDP, FSDP, hooks on parameters or modules.
        zero_weight: a loss weight of 0 leaves nothing of a loss in one backward.

    """

    features: bool
    params: bool
    separate: bool = False
    why_not_separate: str = ""
    exclusive: bool = False
    listened: bool = False
    zero_weight: bool = False


@dataclass(frozen=True)
class Plan:
    """What a step does. It can be printed.

    Attributes:
        strategy: "plain" (one backward, nothing read), "one_backward" (gradients are picked up while the one
            backward runs), "per_loss" (one read per loss, then one backward), "direct" (one read per loss
            brings all that ``.grad`` needs), "folded" (inner products part by part, then one backward).
        merged_at: where what arrives is replaced; None where the plain sum stays.
        measured_at: where norms, Gramian and cosines belong to; None where nothing is measured.
        norms: norms are needed by a method.
        gramian: the Gramian is needed by a method, or someone wants to see it.
        refuse_separated: a method would take the Gramian at features as evidence.
        differentiable: gradients are read with their graph.
        because: why it is this strategy.

    """

    strategy: Strategy
    merged_at: Place | None = None
    measured_at: Place | None = None
    norms: bool = False
    gramian: bool = False
    refuse_separated: bool = False
    differentiable: bool = False
    because: str = ""


@lru_cache(maxsize=256)
def plan(
    needs: Needs,
    facts: Facts,
    *,
    measure: bool = False,
    virtual_layer: bool = False,
    read: Read = "auto",
    low_memory: bool = False,
) -> Plan:
    """Decide who needs which gradients, and where.

    Gradients are merged at the features if there are any, else at the shared parameters. They are measured
    at the shared parameters if there are any, else where they are merged (or at the virtual layer of the
    features, if that is wanted). What was decided once is remembered: most steps of a run are alike.

    Args:
        needs: of all methods together.
        facts: of this step.
        measure: someone wants to see norms, Gramian and cosines.
        virtual_layer: measure at the virtual layer.
        read: "auto", or one of the two ways to read at features, for tests and benchmarks.
        low_memory: T gradients of all shared parameters are not to be held at once.

    Raises:
        ValueError: ``read="one_backward"`` where one backward cannot tell the losses apart.

    """
    gramian = needs.gramian or measure
    measures = gramian or needs.norms or needs.differentiable
    if not (measures or needs.gradients or needs.replaces):
        return Plan("plain", because="no method reads gradients")
    merging: Place = "features" if facts.features else "shared_params"
    measuring: Place = "shared_params" if facts.params else merging
    if virtual_layer and measuring == "features":
        measuring = "virtual_layer"
    strategy, because = _strategy(needs, facts, read)
    if strategy == "direct" and low_memory and needs.gramian and not needs.gradients:
        strategy, because = "folded", "inner products are folded part by part, to save memory"
    return Plan(
        strategy,
        merged_at=merging if needs.replaces else None,
        measured_at=measuring if measures else None,
        norms=needs.norms,
        gramian=gramian,
        refuse_separated=needs.gramian and measuring == "features",
        differentiable=needs.differentiable,
        because=because,
    )


def _strategy(needs: Needs, facts: Facts, read: Read) -> tuple[Strategy, str]:
    if facts.features:
        obstacle = _obstacle(needs, facts)
        if read == "per_loss":
            return "per_loss", 'read="per_loss"'
        if not obstacle:
            return "one_backward", "every edge into the features belongs to one loss"
        if read == "one_backward":
            raise ValueError(f'read="one_backward" cannot be done here: {obstacle}. Use read="auto".')
        return "per_loss", obstacle
    if read == "one_backward":
        raise ValueError('read="one_backward" cannot be done here: no features are given. Use read="auto".')
    if needs.differentiable:
        return "per_loss", "a penalty is differentiated through the read"
    if not needs.replaces:
        return "per_loss", "the plain sum is written"
    if read == "per_loss":
        return "per_loss", 'read="per_loss"'
    if facts.listened:
        return "per_loss", "something listens to an ordinary backward"
    if not facts.exclusive:
        return "per_loss", "parameters outside the shared ones are reached by several losses"
    return "direct", "the reads bring every gradient that .grad needs"


def _obstacle(needs: Needs, facts: Facts) -> str:
    """Why one backward does not do; "" if it does."""
    if needs.differentiable:
        return "a penalty is differentiated through the read"
    if not facts.separate:
        return facts.why_not_separate or "another rank's losses share a node after the features"
    if facts.zero_weight:
        return "a loss has the weight 0"
    return ""
