import pytest

from manyloss.lab import LabError
from manyloss.lab.arms import choose_arm
from tests.lab.arms.left_and_right import Plain, Two


def test_an_option_may_set_an_attribute_of_the_problem():
    problem, chosen = Plain(), choose_arm("clipping:norm=0.5", Plain())
    chosen.apply(problem)
    assert problem.clip_gradients == 0.5
    assert Plain().clip_gradients is None
    assert (chosen.changes, chosen.own_options) == ({"clip_gradients": 0.5}, {})
    assert not chosen.is_a_method_alone


def test_a_later_option_leaves_the_settings_of_kept_trials_as_they_were():
    assert set(choose_arm("gradnorm", Plain()).own_options) == {"alpha", "lr", "initial", "stuck"}
    assert choose_arm("gradnorm:weights_optimizer=sgd", Plain()).own_options["weights_optimizer"] == "sgd"


def test_a_problem_changes_arms_and_arms_change_a_problem():
    problem = Two()
    assert choose_arm("gradnorm", problem).options["alpha"] == 0.1
    choose_arm("wide", problem).apply(problem)
    assert problem.width == 30
    assert Two.width == 3


def test_an_attribute_that_a_problem_lacks_is_named():
    problem = Two()
    with pytest.raises(LabError, match=r"changes 'widht', which Two does not have. Did you mean 'width'"):
        choose_arm("wrong", problem).apply(problem)
