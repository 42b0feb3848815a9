"""Losses divided by their initial value (GREAT 2.3): w_i = 1 / L_i(0), L_i(0) the first value seen."""

from collections.abc import Sequence


class InitialLossOracle:
    def __init__(self, count: int):
        self.initial: list[float | None] = [None] * count

    def step(self, losses: Sequence[float | None]) -> list[float | None]:
        for i, loss in enumerate(losses):
            if loss is not None and self.initial[i] is None:
                self.initial[i] = float(loss)
        return [
            None if loss is None else 1.0 / initial
            for loss, initial in zip(losses, self.initial, strict=True)
        ]
