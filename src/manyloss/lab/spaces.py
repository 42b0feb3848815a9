"""Spaces: what is searched for one row of a tuned comparison, and how new values are drawn.

A space turns drawn values into the text of an arm, such as ``gradnorm:alpha=0.5:optimizer.lr_factor=2.1``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manyloss.lab.arms import ChosenArm
from manyloss.lab.optimizer import LR_FACTOR, WEIGHT_DECAY

#: Of the user's own learning rates, and of weight decay; both on a log scale.
LR_RANGE = (0.1, 10.0)
DECAY_RANGE = (1e-6, 1e-1)
#: So many settings are drawn at random before earlier ones guide the search.
AT_RANDOM = 4
#: Weights of the sum that are divided by their losses' sizes.
OWN_SCALE = "first epoch"


@dataclass(frozen=True)
class Space:
    """What is searched for one row: options with a list of values, and ranges.

    ``arm`` is the method as it was asked for; what its text sets is not searched.
    """

    arm: str
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, chosen: ChosenArm, *, weight_decay: bool = False) -> Space:
        """Of a method: the values that its class offers, and the learning rate."""
        values = {
            option: tuple(map(str, offered))
            for option, offered in chosen.arm.search.items()
            if chosen.options.get(option) == chosen.arm.options.get(option)
        }
        ranges = {}
        if chosen.optimizer.lr_factor == 1:
            ranges[LR_FACTOR] = LR_RANGE
        if weight_decay and chosen.optimizer.weight_decay is None:
            ranges[WEIGHT_DECAY] = DECAY_RANGE
        return cls(chosen.name, values, ranges)

    def distributions(self) -> dict[str, Any]:
        """As Optuna has them."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        return {
            **{name: CategoricalDistribution(values) for name, values in self.values.items()},
            **{name: FloatDistribution(*ends, log=True) for name, ends in self.ranges.items()},
        }

    def default(self, chosen: ChosenArm) -> dict[str, Any] | None:
        """The method as it is, as if drawn; None where that is not among what is searched."""
        values = {name: str(chosen.options[name]) for name in self.values}
        if set(self.ranges) != {LR_FACTOR} or any(values[name] not in self.values[name] for name in values):
            return None
        return {**values, LR_FACTOR: 1.0}

    def at_first_rate(self, drawn: Mapping[str, Any], factor: float) -> dict[str, Any]:
        """What was drawn, with this learning rate of the first round if it is searched."""
        return {**drawn, **({LR_FACTOR: factor} if LR_FACTOR in drawn else {})}

    def after_first_rates(self, drawn: Mapping[str, Any], factor: float) -> dict[str, Any]:
        """What is tried behind the first round, whose best learning rate is ``factor``: what was drawn."""
        return dict(drawn)

    def text(self, drawn: Mapping[str, Any]) -> str:
        """The arm with these values."""
        options = {
            name: f"{value:.3g}" if isinstance(value, float) else value for name, value in drawn.items()
        }
        return self.arm + "".join(f":{name}={value}" for name, value in options.items())


@dataclass(frozen=True)
class SumSpace(Space):
    """The weighted sum: weights on the simplex, per-loss scale, learning rate and weight decay.

    Shares p of the losses are uniform on the simplex, as ``-log u_i`` over their sum with u_i uniform on
    (0, 1). The weights are ``w_i = T (p_i / c_i) / sum_j (p_j / c_j)``, where c_i is 1 or, with the scale
    "first epoch", the size of the loss in the first epoch of the plain sum.

    In the first round the weights are equal and the weight decay is the user's, so that the sum has whatever
    equal weights reach at the common learning rates. Behind it come equal shares of the losses' own scales,
    ``w_i ~ 1 / c_i``, at the best of these rates: where one loss is a hundred times the others, a few draws
    would not find such weights. From there on weights and weight decay are drawn.
    """

    sizes: Mapping[str, float] = field(default_factory=dict)

    @property
    def _sizes_are_known(self) -> bool:
        return all(math.isfinite(size) and size > 0 for size in self.sizes.values())

    def distributions(self) -> dict[str, Any]:
        """As Optuna has them: one u per loss, and which scale."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        if len(self.sizes) < 2:
            return super().distributions()
        scales = ("one", OWN_SCALE) if self._sizes_are_known else ("one",)
        shares = {f"u:{name}": FloatDistribution(1e-3, 1 - 1e-3) for name in self.sizes}
        return {"scale": CategoricalDistribution(scales), **shares, **super().distributions()}

    def at_first_rate(self, drawn: Mapping[str, Any], factor: float) -> dict[str, Any]:
        """Equal weights with this learning rate."""
        return {LR_FACTOR: factor}

    def after_first_rates(self, drawn: Mapping[str, Any], factor: float) -> dict[str, Any]:
        """All losses of one size; what was drawn where their sizes are not known."""
        if len(self.sizes) < 2 or not self._sizes_are_known:
            return dict(drawn)
        equal = {f"u:{name}": math.exp(-1) for name in self.sizes}  # -log u is 1
        return {"scale": OWN_SCALE, **equal, LR_FACTOR: factor}

    def text(self, drawn: Mapping[str, Any]) -> str:
        """``static:digit=0.7:loop=1.3`` with these values."""
        rest = {name: drawn[name] for name in self.ranges if name in drawn}
        if len(self.sizes) < 2:
            return super().text(rest)
        shares = dict.fromkeys(self.sizes, 1.0)
        if "scale" in drawn:
            units = self.sizes if drawn["scale"] == OWN_SCALE else shares
            shares = {name: -math.log(drawn[f"u:{name}"]) / units[name] for name in self.sizes}
        return weighted_sum(shares) + super().text(rest).removeprefix(self.arm)


def weighted_sum(shares: Mapping[str, float]) -> str:
    """The arm with weights in these proportions and of mean 1."""
    unit = sum(shares.values()) / len(shares)
    return "static" + "".join(f":{name}={share / unit:.4g}" for name, share in shares.items())


def ask(
    space: Space, tried: Sequence[tuple[Mapping[str, Any], float | None]], count: int, seed: int
) -> list[dict[str, Any]]:
    """New values to try, by Optuna's tree-structured Parzen estimator.

    Args:
        space: of one method.
        tried: drawn values with their gain; None for a trial that was pruned, diverged or crashed.
        count: how many.
        seed: of the sampler.

    """
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = space.distributions()
    if not distributions:
        return []
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=AT_RANDOM)
    search = optuna.create_study(direction="maximize", sampler=sampler)
    for drawn, value in tried:
        ended = TrialState.PRUNED if value is None else TrialState.COMPLETE
        searched = {name: distributions[name] for name in drawn}
        search.add_trial(create_trial(params=dict(drawn), distributions=searched, value=value, state=ended))
    return [dict(search.ask(distributions).params) for _ in range(count)]
