"""Every recipe at its smoke scale: each default arm trains, and the same numbers come out again."""

import pytest

from manyloss.lab.recipes import all_recipes, recipe_named
from manyloss.lab.source import Source
from manyloss.lab.trial import Trial, TrialSpec

ARMS = [(name, arm) for name, recipe in all_recipes().items() for arm in recipe.arms]
EXTRA = [("cosreg-two-digits", arm) for arm in ("single:left", "dropout", "batchnorm", "cosreg-batchnorm")]


def run(name, arm, folder):
    numbers = dict(recipe_named(name).scales["smoke"])
    epochs = numbers.pop("epochs")
    numbers.pop("seeds")
    return Trial(TrialSpec(Source(name, numbers), arm, seed=0, epochs=epochs, root=folder)).run()


@pytest.mark.parametrize(("name", "arm"), ARMS + EXTRA)
def test_every_arm_finishes(name, arm, tmp_path):
    result = run(name, arm, tmp_path)
    assert result["status"] == "finished", result["reason"]
    assert result["test"]


@pytest.mark.parametrize("name", ["cosreg-two-digits", "gradnorm-toy-2", "graddrop-sines"])
def test_a_trial_is_a_function_of_its_settings(name, tmp_path):
    arm = recipe_named(name).arms[-1]
    one, other = run(name, arm, tmp_path / "one"), run(name, arm, tmp_path / "other")
    assert one["test"] == other["test"]


def test_every_recipe_says_what_it_is():
    for recipe in all_recipes().values():
        assert recipe.summary
        assert recipe.paper
        assert recipe.departures
        assert {"smoke", "small", "full"} <= set(recipe.scales)
