"""The front of the sum: volumes and distances that are known, and what is said about noise."""

import math

import numpy as np
import pytest

from manyloss.lab.analysis.pareto import beyond, delta_m, hypervolume, nondominated, pareto, spread

UP = [True, True]


def test_hypervolume_by_hand():
    origin = np.zeros(2)
    assert hypervolume(np.array([[1.0, 3.0], [2.0, 1.0]]), origin) == pytest.approx(3 + 1)
    assert hypervolume(np.array([[1.0, 3.0], [2.0, 1.0], [0.5, 0.5]]), origin) == pytest.approx(4)
    assert hypervolume(np.array([[-1.0, 3.0]]), origin) == 0
    cube = np.array([[1.0, 1, 1], [2, 0.5, 0.5]])
    assert hypervolume(cube, np.zeros(3)) == pytest.approx(1 + 0.25)
    assert hypervolume(np.array([[2.0]]), np.ones(1)) == 1


@pytest.mark.parametrize("metrics", [2, 3, 4])
def test_hypervolume_is_the_share_of_random_points_that_are_dominated(metrics):
    draw = np.random.default_rng(metrics)
    points, probes = draw.random((8, metrics)), draw.random((40_000, metrics))
    share = (points[None] >= probes[:, None]).all(2).any(1).mean()
    assert hypervolume(points, np.zeros(metrics)) == pytest.approx(share, abs=0.01)


def test_what_is_dominated():
    points = np.array([[1.0, 2], [2, 1], [1, 1], [2, 1]])
    assert nondominated(points).tolist() == [True, True, False, True]


def test_distance_to_the_front_counts_mixtures():
    front = np.array([[[0.0, 1.0], [1.0, 0.0]]])

    def distance(*point):
        return float(beyond(np.array([point]), front)[0])

    assert distance(0.5, 0.5) == pytest.approx(0)  # between two points of the sum is no discovery
    assert distance(0.6, 0.6) == pytest.approx(0.1)
    assert distance(0.4, 0.4) == pytest.approx(-0.1)
    assert distance(1.0, 0.0) == pytest.approx(0)
    assert distance(1.2, 0.0) == pytest.approx(0.2)  # beyond the end is beyond
    assert float(beyond(np.array([[0.3, 0.4]]), np.array([[[0.2, 0.2]]]))[0]) == pytest.approx(0.2)


def test_the_interval_is_as_wide_as_students():
    values = np.array([0.0, 1, 2, 3, 4, 5, 6, 7])
    draws = np.random.default_rng(0).integers(0, 8, (200_000, 8))
    found = spread(3.5, values[draws].mean(1), 8)
    half = 2.3646 * values.std(ddof=1) / math.sqrt(8)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.05)
    assert spread(1.0, np.ones(3), 1).low is None


def seeds(left, right, noise=0.002, count=6, shared=0.05):
    """Seeds differ much, points of one seed little: what pairing is for."""
    draw = np.random.default_rng(round(1000 * (left + 3 * right)))
    return {
        k: [
            left + shared * math.sin(k) + draw.normal(0, noise),
            right + shared * math.sin(k) + draw.normal(0, noise),
        ]
        for k in range(count)
    }


SUMS = {f"static:{i}": seeds(0.5 + 0.05 * i, 0.7 - 0.05 * i) for i in range(5)}


def where(point, **keywords):
    found = pareto(SUMS, {"m": point}, [0.6, 0.6], ["a", "b"], UP, **keywords)
    return found.methods[0]


def test_a_method_beyond_behind_and_on_the_front():
    assert where(seeds(0.63, 0.63)).where == "beyond"
    assert where(seeds(0.57, 0.57)).where == "behind"
    assert where(seeds(0.6, 0.6, noise=0.005)).where == "on"
    assert where(seeds(0.63, 0.63)).distance.value == pytest.approx(0.05, abs=0.01)
    assert where(seeds(0.63, 0.63)).gain.low > 0
    assert where(seeds(0.63, 0.63), at_least=0.1).where == "on"
    assert where(seeds(0.57, 0.57)).gain.value == 0


def test_two_seeds_place_nothing():
    sums = {name: {k: rows[k] for k in (0, 1)} for name, rows in SUMS.items()}
    found = pareto(sums, {"m": seeds(0.9, 0.9, count=2)}, [0.6, 0.6], ["a", "b"], UP)
    assert found.methods[0].where == "untested"


def test_lower_may_be_better_and_missing_seeds_are_left_out():
    sums = {"static:1": seeds(0.6, 0.6), "static:2": {k: v for k, v in seeds(0.6, 0.5).items() if k != 3}}
    less = {"m": seeds(0.5, 0.5), "unmeasured": {0: [0.5, math.nan]}}
    found = pareto(sums, less, [0.6, 0.6], ["a", "b"], [False, False])
    assert found.seeds == (0, 1, 2, 4, 5)
    assert [each.point.name for each in found.methods] == ["m"]
    assert found.methods[0].where == "beyond"
    assert pareto({}, less, [0.6, 0.6], ["a", "b"], UP) is None


def test_a_front_of_noise_is_left_by_few():
    """Twenty methods that are all the sum itself: a 95 % interval may not call many of them beyond it."""
    points = {f"m{i}": seeds(0.6, 0.6, noise=0.01 + 1e-6 * i, count=5) for i in range(20)}
    draw = np.random.default_rng(1)
    points = {
        name: {k: [v + draw.normal(0, 0.01) for v in values] for k, values in rows.items()}
        for name, rows in points.items()
    }
    sums = {n: {k: [v + draw.normal(0, 0.01) for v in r[k]] for k in range(5)} for n, r in SUMS.items()}
    found = pareto(sums, points, [0.6, 0.6], ["a", "b"], UP)
    assert sum(each.where == "beyond" for each in found.methods) <= 1


def test_delta_m_by_hand():
    values = {0: {"acc": 0.66, "err": 1.8}, 1: {"acc": 0.54, "err": 2.2}, 2: {"acc": 1.0}}
    single = {0: {"acc": 0.6, "err": 2.0}, 1: {"acc": 0.6, "err": 2.0}, 3: {"acc": 0.6, "err": 2.0}}
    found = delta_m(values, single, {"acc": True, "err": False})
    assert (found.mean, found.count) == (pytest.approx(0.0), 2)
    assert delta_m({0: values[0]}, single, {"acc": True, "err": False}).mean == pytest.approx(0.1)
    assert delta_m({2: values[2]}, single, {"acc": True, "err": False}) is None
