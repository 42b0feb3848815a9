"""GradNorm 2018, section 4 and figure 2 (bottom): ten regressions whose scales come from a wide normal.

f_i(x) = sigma_i tanh((B + eps_i) x) with sigma_i = abs of a draw from N(0, 50^2), drawn once: the paper gives
neither the width nor the values. The w_i of small sigma_i should grow; the paper finds GradNorm (alpha 0.12)
well below equal weights and uncertainty weighting in the sum of loss ratios.
`_gradnorm_toy` has the network, the training, and what the paper leaves open.
"""

from __future__ import annotations

import numpy as np

from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._gradnorm_toy import DEPARTURES, SCALES, GradNormToy


class TenRegressions(GradNormToy):
    """Scales |N(0, 50^2)|, the same for all seeds."""

    name = "gradnorm-toy-10"
    sigmas = tuple(np.abs(np.random.default_rng(0).normal(0.0, 50.0, 10)).round(4).tolist())


recipe = Recipe(
    name="gradnorm-toy-10",
    summary="Ten regressions of scales drawn from a wide normal: do the weights make up for the scales?",
    problem=TenRegressions,
    arms=("equal", "uncertainty", "gradnorm"),
    seeds=3,
    paper="GradNorm (2018), section 4, figure 2 bottom",
    departures=(*DEPARTURES, "sigma_i = |N(0, 50^2)|, drawn once with a fixed seed and used by every seed."),
    gpu_scales=(),
    scales=SCALES,
)
