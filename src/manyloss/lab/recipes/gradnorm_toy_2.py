"""GradNorm 2018, section 4 and figure 2 (top): two regressions, one a hundred times as large as the other.

f_i(x) = sigma_i tanh((B + eps_i) x) with (sigma_0, sigma_1) = (1, 100). With equal weights task 1 keeps task
0 from learning. GradNorm (alpha 0.12) raises w_0; the paper finds a lower sum of loss ratios than with equal
weights and with uncertainty weighting, whose weights it sees grow too large and too fast.
`_gradnorm_toy` has the network, the training, and what the paper leaves open.
"""

from __future__ import annotations

from manyloss.lab.recipes import Recipe
from manyloss.lab.recipes._gradnorm_toy import DEPARTURES, SCALES, GradNormToy


class TwoRegressions(GradNormToy):
    """Scales 1 and 100."""

    name = "gradnorm-toy-2"
    sigmas = (1.0, 100.0)


recipe = Recipe(
    name="gradnorm-toy-2",
    summary="Two regressions of scale 1 and 100: do the weights make up for the scale?",
    problem=TwoRegressions,
    arms=("equal", "uncertainty", "gradnorm"),
    seeds=3,
    paper="GradNorm (2018), section 4, figure 2 top",
    departures=DEPARTURES,
    gpu_scales=(),
    scales=SCALES,
)
