# ruff: noqa: RUF012
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manyloss import MultiLoss, catalog
from manyloss.lab import Arm, ArmContext, LabError, Problem
from manyloss.lab.arms import BUILT_IN, average_weights_of, choose_arm, choose_arms, options_for
from manyloss.lab.recipes import recipe_named
from manyloss.lab.runs.source import Source
from manyloss.lab.spaces import Space


class Two(Problem):
    losses = {"left": F.mse_loss, "right": F.mse_loss}
    width = 3
    arms = {
        "wide": Arm("wide", "More neurons.", problem={"width": 30}),
        "wrong": Arm("wrong", "A slip.", problem={"widht": 30}),
        "gradnorm": Arm(
            "gradnorm", "Ours.", BUILT_IN["gradnorm"].method, {"alpha": 0.1, "lr": 1.0, "initial": "first"}
        ),
    }


class Plain(Problem):
    losses = Two.losses


WEIGHING = [
    name
    for name, info in catalog.methods().items()
    if info.family in ("loss weighting", "gradient weighting") and name in BUILT_IN and name != "static"
]


@pytest.mark.parametrize("name", WEIGHING)
def test_every_method_with_weights_has_a_row_that_holds_their_average(name):
    method = choose_arm(f"{name}:optimizer.lr_factor=3", Plain())
    held = choose_arm(f"{name}-static:optimizer.lr_factor=3", Plain())
    assert held.requires == (method.name,)
    assert held.optimizer == method.optimizer
    assert average_weights_of(method.name, Plain()) == held.name == f"{name}-static:optimizer.lr_factor=3"
    weighs_losses = catalog.methods()[name].family == "loss weighting"
    scale = 1.0 if weighs_losses else 12.0
    needed = {method.name: {"mean_weights": {"left": 0.5 * scale, "right": 1.5 * scale}}}
    multi = held.build(ArmContext(("left", "right"), 3, needed))
    left, right = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    result = multi.backward({"left": left * 1, "right": right * 1})
    assert result.weights == {"left": 0.5, "right": 1.5}
    assert (left.grad, right.grad) == (0.5, 1.5)


def test_average_weights_have_the_options_of_their_method():
    held = choose_arm("cagrad-static:c=0.6:rescale=sum_norm", Plain())
    assert held.name == "cagrad-static:c=0.6:rescale=sum_norm"
    assert held.requires == ("cagrad:c=0.6:rescale=sum_norm",)
    assert choose_arm("gradnorm-static", Two()).requires == ("gradnorm:alpha=1.5:lr=0.025",)  # not Two's own


@pytest.mark.parametrize("name", ["graddrop-static", "cosreg-static", "static-static", "single:left-static"])
def test_what_has_no_weights_has_none_to_hold(name):
    method = name.removesuffix("-static")
    with pytest.raises(LabError, match=f"'{name}' would hold the average weights of '{method}', which finds"):
        choose_arm(name, Plain())


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


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_arm_makes_a_step(name):
    chosen = choose_arm(name, Plain())
    needed = {arm: {"mean_weights": {"left": 0.5, "right": 1.5}} for arm in chosen.requires}
    multi = chosen.build(ArmContext(("left", "right"), 3, needed))
    assert isinstance(multi, MultiLoss)
    torch.manual_seed(0)
    encoder, heads = nn.Linear(4, 3), [nn.Linear(3, 1), nn.Linear(3, 1)]
    features = encoder(torch.randn(5, 4))
    losses = {n: head(features).square().mean() for n, head in zip(("left", "right"), heads, strict=True)}
    multi.backward(losses, features=features, shared_params=list(encoder.parameters()))
    assert torch.isfinite(encoder.weight.grad).all()
    assert encoder.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "name",
    [
        "random",
        "pcgrad",
        "iterative-pcgrad",
        "graddrop",
        "random-graddrop",
        "gradnorm-graddrop",
        "mgda-graddrop",
    ],
)
def test_random_methods_take_the_seed_of_the_trial(name):
    def states(seed):
        multi = choose_arm(name, Plain()).build(ArmContext(("left", "right"), seed))
        method = multi.aggregator if multi.aggregator.generator is not None else multi.weighting
        return method.generator.get_state()

    assert torch.equal(states(1), states(1))
    assert not torch.equal(states(1), states(2))


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


def test_static_takes_a_weight_per_loss():
    multi = choose_arm("static:right=3", Plain()).build(ArmContext(("left", "right"), 0))
    x = torch.ones((), requires_grad=True)
    result = multi.backward({"left": x * 1, "right": x * 1})
    assert result.weights == {"left": 1, "right": 3}


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


@pytest.mark.parametrize(
    ("text", "name"),
    [("dualproj", "torchjd:DualProj"), ("torchjd:UPGrad", "torchjd:UPGrad"), ("upgrad", "upgrad")],
)
def test_methods_of_torchjd_need_no_arm(text, name):
    pytest.importorskip("torchjd")
    chosen = choose_arm(text, Plain())
    assert chosen.name == name
    x = torch.ones(3, requires_grad=True)
    multi = chosen.build(ArmContext(("left", "right"), 0))
    multi.backward({"left": x.sum(), "right": (2 * x).sum()}, shared_params=[x])
    assert torch.isfinite(x.grad).all()


def test_methods_of_torchjd_have_options_and_can_be_tuned():
    pytest.importorskip("torchjd")
    chosen = choose_arm("torchjd:DualProj:optimizer.lr_factor=3", Plain())
    assert chosen.name == "torchjd:DualProj:optimizer.lr_factor=3"
    assert chosen.optimizer.lr_factor == 3
    space = Space.of(choose_arm("dualproj", Plain()))
    assert choose_arm(space.text({"optimizer.lr_factor": 0.3}), Plain()).name.endswith("lr_factor=0.3")
    trimmed = choose_arm("trimmedmean:trim_number=0:optimizer.weight_decay=0.1", Plain())
    assert trimmed.name == "torchjd:TrimmedMean:optimizer.weight_decay=0.1:trim_number=0"
    assert choose_arm(trimmed.name, Plain()).name == trimmed.name
    x = torch.ones(3, requires_grad=True)
    multi = trimmed.build(ArmContext(("left", "right"), 0))
    multi.backward({"left": x.sum(), "right": (2 * x).sum()}, shared_params=[x])
    assert torch.equal(x.grad, torch.full((3,), 1.5))  # the mean, untrimmed
    # What is not given is TorchJD's own, and none of a trial's settings: folders stay the same trials'.
    assert choose_arm("torchjd:PCD", Plain()).own_options == {}
    assert choose_arm("torchjd:PCD:tau=0.02", Plain()).name == "torchjd:PCD"
    assert choose_arm("torchjd:PCD:beta=0.9", Plain()).own_options == {"beta": 0.9}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("torchjd:Krum", r"'torchjd:Krum' cannot be built: .*missing 1 required .*'n_byzantine'"),
        ("torchjd:Krum:f=1", r"'torchjd:Krum' has no option 'f'. Known: n_byzantine, n_selected, optimizer"),
        ("torchjd:Nothing:x=1", r"There is no method 'torchjd:Nothing'"),
        ("x=1:dualproj", r"There is no method 'dualproj' \(in 'x=1:dualproj'\)"),
    ],
)
def test_methods_of_torchjd_that_cannot_be_are_named(text, said):
    pytest.importorskip("torchjd")
    with pytest.raises(LabError, match=said):
        choose_arm(text, Plain())


def test_two_methods_in_one_take_their_own_options():
    multi = choose_arm("gradnorm-graddrop:alpha=0.5:leak=0.2", Plain()).build(
        ArmContext(("left", "right"), 0)
    )
    assert (multi.weighting.name, multi.weighting.alpha) == ("gradnorm", 0.5)
    assert (multi.aggregator.name, multi.aggregator.leak) == ("graddrop", 0.2)
    multi = choose_arm("mgda-graddrop:k=2", Plain()).build(ArmContext(("left", "right"), 0))
    assert (multi.weighting.name, multi.aggregator.k) == ("mgda", 2)


def test_an_option_may_set_an_attribute_of_the_problem():
    problem, chosen = Plain(), choose_arm("clipping:norm=0.5", Plain())
    chosen.apply(problem)
    assert problem.clip_gradients == 0.5
    assert Plain().clip_gradients is None
    assert (chosen.changes, chosen.own_options) == ({"clip_gradients": 0.5}, {})
    assert not chosen.is_a_method_alone


@pytest.mark.parametrize(("text", "kind"), [("sgd", torch.optim.SGD), ("rmsprop", torch.optim.RMSprop)])
def test_gradnorm_moves_its_weights_by_another_optimiser(text, kind):
    chosen = choose_arm(f"gradnorm:weights_optimizer={text}:lr=0.1", Plain())
    gradnorm = chosen.build(ArmContext(("left", "right"), 0)).weighting
    x = torch.ones(1, requires_grad=True)
    losses = {"left": x.square().sum(), "right": (2 * x).square().sum()}
    MultiLoss(gradnorm).backward(losses, shared_params=[x])
    assert isinstance(gradnorm.inner.optimizer, kind)
    assert gradnorm.inner.optimizer.param_groups[0]["lr"] == 0.1
    assert gradnorm.state.weights[0] > 1 > gradnorm.state.weights[1]


def test_a_later_option_leaves_the_settings_of_kept_trials_as_they_were():
    assert set(choose_arm("gradnorm", Plain()).own_options) == {"alpha", "lr", "initial", "stuck"}
    assert choose_arm("gradnorm:weights_optimizer=sgd", Plain()).own_options["weights_optimizer"] == "sgd"


def test_prerequisites_have_the_same_options():
    assert choose_arm("gradnorm-static", Plain()).requires == ("gradnorm",)
    assert choose_arm("gradnorm-static:alpha=0.3", Plain()).requires == ("gradnorm:alpha=0.3",)


def test_a_problem_changes_arms_and_arms_change_a_problem():
    problem = Two()
    assert choose_arm("gradnorm", problem).options["alpha"] == 0.1
    choose_arm("wide", problem).apply(problem)
    assert problem.width == 30
    assert Two.width == 3


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


def test_an_attribute_that_a_problem_lacks_is_named():
    problem = Two()
    with pytest.raises(LabError, match=r"changes 'widht', which Two does not have. Did you mean 'width'"):
        choose_arm("wrong", problem).apply(problem)
