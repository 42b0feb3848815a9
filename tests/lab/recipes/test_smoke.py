"""Every recipe at its smoke scale: each default arm trains, and the same numbers come out again."""

import pytest

from manyloss.lab.recipes import all_recipes, recipe_named
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.study import Study
from manyloss.lab.runs.trial import Trial

EXTRA = {"cosreg-two-digits": ("single:left", "dropout", "batchnorm", "cosreg-batchnorm")}
#: Variants of recipes that are run here anyway, or slow networks.
SLOW = {
    "cosreg-sigma",
    "cosreg-sunrgbd",
    "cosreg-sunrgbd-streets",
    "graddrop-celeba-faces",
    "graddrop-synergy",
    "gradnorm-alpha-rooms",
    "gradnorm-nyuv2-kpts-resnet",
    # great-defense-digits has the arms of the defenses, and is fast
    "great-defense-cifar",
    "great-defense-svhn",
    "great-sobolev-5",
    "great-distill-mini-5",
    "great-distill-mini-224",
    "great-distill-mini-224-5",
    "great-distill-resnext",
    "great-distill-resnext-5",
    "great-distill-mini",
}


def run(name, arms, folder):
    """The results of these arms and of what they need, by arm."""
    numbers = dict(recipe_named(name).scales["smoke"])
    epochs = numbers.pop("epochs")
    numbers.pop("seeds")
    study = Study.plan(Source(name, numbers), arms, [0], folder / "run", epochs=epochs)
    return {spec.arm: Trial(spec).run() for spec in study.trials()}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in all_recipes()]
)
def test_every_arm_finishes(name, tmp_path):
    arms = (*recipe_named(name).arms, *EXTRA.get(name, ()))
    results = run(name, arms, tmp_path)
    assert set(arms) <= set(results)
    for arm, result in results.items():
        assert result["status"] == "finished", (arm, result["reason"])
        assert result["test"], arm


@pytest.mark.parametrize(
    "name",
    [
        "cosreg-two-digits",
        "gradnorm-toy-2",
        "graddrop-sines",
        "great-distill-cnn-5",
        pytest.param("great-mtl-cifar", marks=pytest.mark.slow),
    ],
)
def test_a_trial_is_a_function_of_its_settings(name, tmp_path):
    arms = recipe_named(name).arms
    arm = "great" if "great" in arms else arms[-1]
    one, other = run(name, [arm], tmp_path / "one"), run(name, [arm], tmp_path / "other")
    assert one[arm]["test"] == other[arm]["test"]


def test_every_recipe_says_what_it_is():
    for recipe in all_recipes().values():
        assert recipe.summary
        assert recipe.paper
        assert recipe.departures
        assert {"smoke", "small", "full"} <= set(recipe.scales)
