"""Where static weights are tried for the front of the sum: points on the simplex, the centre first."""

from __future__ import annotations

import math

#: Shares of the first of two losses.
OF_TWO = (0.5, 0.02, 0.1, 0.25, 0.4, 0.6, 0.75, 0.9, 0.98)
#: The share near a corner, and how many points are spread over the inside, for more than two losses.
CORNER = 0.8
INSIDE = 8


def simplex(losses: int) -> list[tuple[float, ...]]:
    """Shares that sum to 1, the same ones every time.

    Two losses: nine points. More: the centre, one point near each corner, and eight spread evenly inside (a
    Halton sequence through ``-log u``, which is uniform on the simplex).
    """
    if losses == 2:
        return [(share, 1 - share) for share in OF_TWO]
    from scipy.stats import qmc

    points = [tuple([1 / losses] * losses)]
    points += [
        tuple(CORNER if i == corner else (1 - CORNER) / (losses - 1) for i in range(losses))
        for corner in range(losses)
    ]
    for row in qmc.Halton(losses, scramble=False).random(INSIDE + 1)[1:]:
        parts = [-math.log(u) for u in row.tolist()]
        points.append(tuple(part / sum(parts) for part in parts))
    return points
