"""Dynamic weight average (Liu et al. 2019, eq. 7): T softmax(r / temperature).

r_i is the mean loss of the last finished epoch over that of the one before; 1 while there are not two.
"""

import math
from collections.abc import Sequence


class DWAOracle:
    def __init__(self, count: int, temperature: float = 2.0):
        self.count, self.temperature = count, temperature
        self.epochs: list[list[list[float]]] = [[[] for _ in range(count)]]

    def step(self, losses: Sequence[float]) -> list[float]:
        for i in range(self.count):
            self.epochs[-1][i].append(float(losses[i]))
        finished = self.epochs[:-1]
        ratios = [1.0] * self.count
        if len(finished) >= 2:
            for i in range(self.count):
                last, before = finished[-1][i], finished[-2][i]
                ratios[i] = (sum(last) / len(last)) / (sum(before) / len(before))
        exponentials = [math.exp(ratio / self.temperature) for ratio in ratios]
        return [self.count * value / sum(exponentials) for value in exponentials]

    def end_epoch(self) -> None:
        self.epochs.append([[] for _ in range(self.count)])
