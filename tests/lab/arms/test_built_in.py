import pytest
import torch
from torch import nn

from manyloss import MultiLoss, catalog
from manyloss.lab import ArmContext, LabError
from manyloss.lab.arms import BUILT_IN, average_weights_of, choose_arm
from tests.lab.arms.left_and_right import Plain, Two

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


def test_average_weights_below_zero_are_not_held():
    held = choose_arm("imtl-g-static", Plain())
    needed = {"imtl-g": {"mean_weights": {"left": 1.25, "right": -0.25}}}
    said = (
        r"average weights of 'imtl-g' are below 0 for right -0.25: .* train against that loss.*leave this row"
    )
    with pytest.raises(LabError, match=said):
        held.build(ArmContext(("left", "right"), 0, needed))


@pytest.mark.parametrize("name", ["graddrop-static", "cosreg-static", "static-static", "single:left-static"])
def test_what_has_no_weights_has_none_to_hold(name):
    method = name.removesuffix("-static")
    with pytest.raises(LabError, match=f"'{name}' would hold the average weights of '{method}', which finds"):
        choose_arm(name, Plain())


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


def test_static_takes_a_weight_per_loss():
    multi = choose_arm("static:right=3", Plain()).build(ArmContext(("left", "right"), 0))
    x = torch.ones((), requires_grad=True)
    result = multi.backward({"left": x * 1, "right": x * 1})
    assert result.weights == {"left": 1, "right": 3}


def test_two_methods_in_one_take_their_own_options():
    multi = choose_arm("gradnorm-graddrop:alpha=0.5:leak=0.2", Plain()).build(
        ArmContext(("left", "right"), 0)
    )
    assert (multi.weighting.name, multi.weighting.alpha) == ("gradnorm", 0.5)
    assert (multi.aggregator.name, multi.aggregator.leak) == ("graddrop", 0.2)
    multi = choose_arm("mgda-graddrop:k=2", Plain()).build(ArmContext(("left", "right"), 0))
    assert (multi.weighting.name, multi.aggregator.k) == ("mgda", 2)


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
