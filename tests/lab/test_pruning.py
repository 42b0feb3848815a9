"""Median pruning on curves whose medians are known."""

import math

import pytest

from manyloss.lab.pruning import Pruning, gain, so_far

UP = {"a": True, "b": False}


def curve(*values):
    return [{"a": 1 + value, "b": 1 - value} for value in values]


REFERENCE = {"a": 1.0, "b": 1.0}


def test_the_gain_by_hand():
    assert gain({"a": 1.2, "b": 0.9}, REFERENCE, UP) == pytest.approx(0.15)
    assert gain({"a": 0.5}, {"a": 0.0}, {"a": True}) == 0.5  # not divided by 0
    assert math.isnan(gain({"a": 1.2}, REFERENCE, UP))


def test_the_best_so_far():
    assert so_far([0.1, 0.3, math.nan, 0.2]) == [0.1, 0.3, 0.3, 0.3]
    assert so_far([0.1, 0.3, 0.2], keep_last=True) == [0.1, 0.3, 0.2]


def test_behind_the_median_after_the_warm_up():
    earlier = [curve(*(level + 0.01 * epoch for epoch in range(6))) for level in (0.0, 0.1, 0.2, 0.3)]
    pruning = Pruning.against(earlier, REFERENCE, UP)
    assert pruning.medians[:2] == (None, None)
    assert pruning.medians[2:] == pytest.approx([0.17, 0.18, 0.19])  # nothing is saved after the last
    assert pruning.behind(curve(-0.9, -0.9)) is None
    assert pruning.behind(curve(0.0, 0.0, 0.16)) == (
        "after epoch 3 at +16.00%, where the median of the settings before it was at +17.00%"
    )
    assert pruning.behind(curve(0.0, 0.5, 0.1, 0.1, 0.1)) is None  # its best so far counts
    assert "epoch 3" in pruning.behind(curve(0.0, 0.0, math.nan))
    assert Pruning.from_dict(pruning.to_dict()) == pruning


def test_few_settings_prune_nothing():
    assert Pruning.against([curve(0.1, 0.2)] * 3, REFERENCE, UP) is None
