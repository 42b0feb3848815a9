"""What figures 4 and 7 of GradNorm show: gains against a reference, and distances of weights from E_t[w]."""

import math

import pytest

from manyloss.lab.recipes.gradnorm_static import drawn_weights
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.study import Study
from manyloss.lab.runs.trial import Trial

MADE = {"data": "made", "train": 64}


def test_drawn_weights_sum_to_t_and_are_the_seeds():
    one, other = drawn_weights(("a", "b", "c"), 0), drawn_weights(("a", "b", "c"), 1)
    assert sum(one.values()) == pytest.approx(3)
    assert one != other
    assert one == drawn_weights(("a", "b", "c"), 0)


def test_random_weights_are_compared_with_one_gradnorm_network(tmp_path):
    study = Study.plan(Source("gradnorm-static", MADE), ["random-static"], [0, 1], tmp_path / "run", epochs=1)
    specs = study.trials()
    assert [spec.arm for spec in specs] == ["gradnorm-reference", "random-static", "random-static"]
    reference, first, second = (Trial(spec).run() for spec in specs)
    for seed, result in enumerate((first, second)):
        drawn = drawn_weights(list(reference["test_losses"]), seed)
        assert result["mean_weights"] == pytest.approx(drawn)
        away = math.sqrt(sum((drawn[name] - reference["mean_weights"][name]) ** 2 for name in drawn))
        assert result["test"]["distance from E_t[w]"] == pytest.approx(away)
        ratios = [result["test_losses"][name] / value for name, value in reference["test_losses"].items()]
        assert result["test"]["gain"] == pytest.approx(1 - sum(ratios) / len(ratios), rel=1e-4)


def test_a_gradnorm_network_for_every_seed_is_compared_with_the_same_one(tmp_path):
    study = Study.plan(Source("gradnorm-static", MADE), ["gradnorm"], [0, 1], tmp_path / "run", epochs=1)
    results = {(spec.arm, spec.seed): Trial(spec).run() for spec in study.trials()}
    reference = results.pop(("gradnorm-reference", 0))
    gains = [results["gradnorm", seed]["test"]["gain"] for seed in (0, 1)]
    assert all("distance from E_t[w]" not in results["gradnorm", seed]["test"] for seed in (0, 1))
    own = results["gradnorm", 1]["test_losses"]
    ratios = [own[name] / value for name, value in reference["test_losses"].items()]
    assert gains[1] == pytest.approx(1 - sum(ratios) / len(ratios), rel=1e-4)
    assert gains[0] != gains[1]


def test_every_alpha_is_compared_with_the_equal_weights_of_its_seed(tmp_path):
    arms = ["equal", "gradnorm:alpha=0"]
    study = Study.plan(Source("gradnorm-alpha", MADE), arms, [0], tmp_path / "run", epochs=1)
    results = {spec.arm: Trial(spec).run() for spec in study.trials()}
    assert "gain" not in results["equal"]["test"]
    equal, own = results["equal"]["test_losses"], results["gradnorm:alpha=0"]["test_losses"]
    gain = sum(1 - own[name] / equal[name] for name in equal) / len(equal)
    assert results["gradnorm:alpha=0"]["test"]["gain"] == pytest.approx(gain, rel=1e-4, abs=1e-6)
