# ruff: noqa: RUF012
import pytest
import torch.nn.functional as F

from manyloss.lab import LabError, Problem
from manyloss.lab.arms import choose_arm, choose_arms, options_for
from manyloss.lab.recipes import recipe_named
from manyloss.lab.runs.source import Source
from tests.lab.arms.left_and_right import Plain


def test_no_method_has_no_average_either():
    with pytest.raises(LabError, match=r"There is no method 'gradnrom-static' .* mean 'gradnorm-static'"):
        choose_arm("gradnrom-static", Plain())


def test_none_is_a_word_where_the_others_are_words():
    assert choose_arm("mgda:rescale=none:normalize=none", Plain()).options == {
        "normalize": None,
        "rescale": "none",
    }
    defense = recipe_named("great-defense-digits").problem()
    tried = [choose_arm(f"greace:mask={mask}", defense) for mask in defense.arms["greace"].search["mask"]]
    assert [arm.options["mask"] for arm in tried] == ["true_class", "none", "detached"]


def test_options_are_read_and_have_one_spelling():
    chosen = choose_arm("graddrop:leak=0.5:k=1.0:renormalize=true", Plain())
    assert chosen.name == "graddrop:leak=0.5:renormalize=True"
    assert chosen.options["renormalize"] is True
    assert choose_arm(chosen.name, Plain()).options == chosen.options


def test_single_is_one_arm_per_loss():
    chosen = choose_arms(["equal", "single", "equal"], Plain())
    assert [arm.name for arm in chosen] == ["equal", "single:left", "single:right"]
    problem = Plain()
    chosen[1].apply(problem)
    assert problem.active_names == ("left",)


class Odd(Problem):
    losses = {"sin(1w+0:2)": F.mse_loss, "a:b=c": F.mse_loss}


def test_names_of_losses_may_hold_colons_and_equal_signs():
    chosen = choose_arm("static:a:b=c=3:sin(1w+0:2)=0.5", Odd())
    assert chosen.options == {"sin(1w+0:2)": 0.5, "a:b=c": 3}
    assert choose_arm(chosen.name, Odd()).options == chosen.options
    assert choose_arm("single:a:b=c", Odd()).arm.selected == ("a:b=c",)


def test_values_may_hold_colons_in_brackets():
    chosen = choose_arm("uncertainty:kinds={'left':'regression','right':'classification'}:lr=0.1", Plain())
    assert chosen.options["kinds"] == {"left": "regression", "right": "classification"}
    assert chosen.options["lr"] == 0.1


def test_prerequisites_have_the_same_options():
    assert choose_arm("gradnorm-static", Plain()).requires == ("gradnorm",)
    assert choose_arm("gradnorm-static:alpha=0.3", Plain()).requires == ("gradnorm:alpha=0.3",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gradnrom", "no method 'gradnrom'.* Did you mean 'gradnorm'"),
        ("single:lef", "Did you mean 'single:left'"),
        ("zzzz", "Known: aligned-mtl, cagrad, clipping, cosreg"),
        ("gradnorm:weights_optimizer=lion", "one of 'adam', 'sgd', 'rmsprop'; received 'lion'"),
        ("clipping:norm=0", "'clipping:norm=0' cannot be built: norm must be a finite number above 0"),
        ("mgda-graddrop:alpha=1", "'mgda-graddrop' has no option 'alpha'"),
        ("gradnorm:alhpa=1", "'gradnorm' has no option 'alhpa'. Did you mean 'alpha'"),
        ("cosreg:alpha=-1", "'cosreg:alpha=-1' cannot be built: alpha must be"),
        ("static:lft=1", "'static' has no option 'lft'. Did you mean 'left'"),
    ],
)
def test_what_is_unknown_is_named_with_the_closest(text, message):
    with pytest.raises(LabError, match=message):
        choose_arm(text, Plain())


def test_arms_of_a_run_may_have_other_defaults_under_their_names():
    problem = Source("gradnorm-toy-2", {"gradnorm.alpha": 1.5, "graddrop.leak": 0.25}).load()
    given, written, other = choose_arms(["gradnorm", "gradnorm:alpha=0.12", "graddrop"], problem)
    assert (given.name, given.options["alpha"], given.options["lr"]) == ("gradnorm", 1.5, 0.025)
    assert (written.name, written.options["alpha"]) == ("gradnorm:alpha=0.12", 0.12)
    assert (other.name, other.options["leak"]) == ("graddrop", 0.25)
    fresh = choose_arm("gradnorm", Source("gradnorm-toy-2").load())
    assert fresh.options["alpha"] == 0.12


def test_an_arm_is_decided_by_its_own_options_and_those_of_the_arms_that_it_needs():
    problem = Source("gradnorm-toy-2").load()
    options = {"inputs": "normal", "gradnorm.alpha": 1.5, "gradnorm-static.alpha": 1.5, "graddrop.k": 0.5}
    chosen = choose_arms(["equal", "gradnorm", "gradnorm-static"], problem)
    equal, gradnorm, static = (options_for(each, options, problem) for each in chosen)
    assert equal == {"inputs": "normal"}
    assert gradnorm == {"inputs": "normal", "gradnorm.alpha": 1.5}
    assert static == {"inputs": "normal", "gradnorm.alpha": 1.5, "gradnorm-static.alpha": 1.5}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("gradnrm.alpha", "There is no method 'gradnrm' .*Did you mean 'gradnorm'"),
        ("gradnorm.alfa", "Method 'gradnorm' has no option 'alfa'. Did you mean 'alpha'"),
        ("gradnorm.optimizer.lr_factor", "Method 'gradnorm' has no option 'optimizer.lr_factor'"),
    ],
)
def test_another_default_of_what_is_unknown_is_named(option, message):
    with pytest.raises(LabError, match=message):
        Source("gradnorm-toy-2", {option: 1.0}).load()
