"""What is searched: what the user set is not, weights are even on the simplex, and good values are found."""

import math
import random

import pytest

from manyloss import catalog
from manyloss.lab.arms import BUILT_IN, choose_arm
from manyloss.lab.problems import board_recipes
from manyloss.lab.recipes import all_recipes
from manyloss.lab.spaces import Space, SumSpace, ask
from tests.lab.small_problem import DigitAndInk

#: Rows with the settings of a GradNorm trial that they are compared with.
AS_ANOTHER_ROWS = {"gradnorm-static", "gradnorm-reference"}
LR = {"optimizer.lr_factor": (0.1, 10.0)}


def test_what_the_user_set_is_not_searched():
    problem = DigitAndInk()
    assert set(Space.of(choose_arm("graddrop", problem)).values) == {"leak", "k"}
    space = Space.of(choose_arm("graddrop:k=0.5", problem))
    assert set(space.values) == {"leak"}
    assert space.ranges == LR
    assert Space.of(choose_arm("equal:optimizer.lr_factor=2", problem)).ranges == {}
    assert space.default(choose_arm("graddrop:k=0.5", problem)) == {"leak": "0.0", "optimizer.lr_factor": 1.0}
    drawn = {"leak": "0.4", "optimizer.lr_factor": 2.34567}
    assert space.text(drawn) == "graddrop:k=0.5:leak=0.4:optimizer.lr_factor=2.35"


@pytest.mark.parametrize("name", [name for name, info in catalog.methods().items() if "lr" in info.options])
def test_a_learning_rate_of_a_methods_own_is_searched(name):
    """At equal budget a method with weights that hardly move would be compared with none."""
    info = catalog.methods()[name]
    assert info.options["lr"] in info.search["lr"]
    assert max(info.search["lr"]) >= 25 * min(info.search["lr"])


@pytest.mark.parametrize("recipe", [*all_recipes().values(), *board_recipes().values()], ids=lambda r: r.name)
def test_an_arm_of_a_recipes_own_is_searched_as_the_method_of_its_name(recipe):
    """A recipe may have a method with other defaults; what is worth trying stays so."""
    for name, arm in recipe.problem().arms.items():
        of_its_name = BUILT_IN[name].search if name in BUILT_IN else {}
        worth_trying = {option for option in of_its_name if option in arm.options}
        own_rates = {option for option in arm.options if option.split("_")[-1] == "lr"}
        if name not in AS_ANOTHER_ROWS:
            assert worth_trying | own_rates <= set(arm.search), name


def test_the_weights_of_the_sum_have_mean_one_and_its_losses_scale():
    space = SumSpace("static", {}, LR, {"digit": 2.0, "ink": 0.01})
    drawn = {"u:digit": 0.5, "u:ink": 0.5, "optimizer.lr_factor": 1.0}
    assert space.text({**drawn, "scale": "one"}) == "static:digit=1:ink=1:optimizer.lr_factor=1"
    chosen = choose_arm(space.text({**drawn, "scale": "first epoch"}), DigitAndInk())
    assert sum(chosen.options.values()) == pytest.approx(2, rel=1e-3)
    assert chosen.options["ink"] / chosen.options["digit"] == pytest.approx(200, rel=1e-3)
    unknown = SumSpace("static", {}, LR, {"digit": math.nan, "ink": 0.01})
    assert unknown.distributions()["scale"].choices == ("one",)


def test_behind_the_first_rates_the_sum_has_losses_of_one_size():
    drawn = {"scale": "one", "u:digit": 0.3, "u:ink": 0.9, "optimizer.lr_factor": 0.2}
    space = SumSpace("static", {}, LR, {"digit": 2.0, "ink": 0.01})
    tried = space.after_first_rates(drawn, 3.0)
    chosen = choose_arm(space.text(tried), DigitAndInk())
    assert chosen.optimizer.lr_factor == 3
    assert chosen.options["digit"] * 2.0 == pytest.approx(chosen.options["ink"] * 0.01, rel=1e-3)
    assert ask(space, [(tried, 0.1)], 2, 0)  # the search that goes on takes it in
    for sizes in ({"digit": math.nan, "ink": 0.01}, {"digit": 0.0, "ink": 0.01}, {"digit": 2.0}):
        assert SumSpace("static", {}, LR, sizes).after_first_rates(drawn, 3.0) == drawn
    assert Space("pcgrad", {}, LR).after_first_rates(drawn, 3.0) == drawn


def test_shares_are_uniform_on_the_simplex():
    space = SumSpace("static", {}, {}, {"digit": 1.0, "ink": 1.0})
    shares = []
    for seed in range(20):
        for drawn in ask(space, [], 10, seed):
            shares.append(choose_arm(space.text(drawn), DigitAndInk()).options["digit"] / 2)
    # Uniform: a mean of 1/2 and a variance of 1/12, here of 200 draws.
    assert sum(shares) / 200 == pytest.approx(0.5, abs=0.08)
    assert sum((share - 0.5) ** 2 for share in shares) / 200 == pytest.approx(1 / 12, abs=0.025)


def test_the_search_goes_where_the_gain_is_and_repeats_itself():
    space = Space("equal", {}, LR)
    draws = [{"optimizer.lr_factor": 10 ** random.Random(i).uniform(-1, 1)} for i in range(30)]
    tried = [(d, -((math.log10(d["optimizer.lr_factor"]) - 0.8) ** 2)) for d in draws]
    asked = [each["optimizer.lr_factor"] for each in ask(space, tried, 20, 3)]
    assert asked == [each["optimizer.lr_factor"] for each in ask(space, tried, 20, 3)]
    assert sum(lr > 2 for lr in asked) > 15  # at random it would be 7
    assert ask(space, [*tried, (draws[0], None)], 1, 3)  # a trial that failed is taken in
