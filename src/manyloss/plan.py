"""What a step has to do, and how: a pure function of what the methods need and what the graph allows."""

from __future__ import annotations

from dataclasses import dataclass, fields


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
        return Needs(
            **{field.name: getattr(self, field.name) or getattr(other, field.name) for field in fields(self)}
        )
