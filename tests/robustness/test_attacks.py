import inspect
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manyloss.robustness import fgsm, ifgsm, least_likely_targets, pgd, random_noise, random_targets
from tests.reference import great
from tests.robustness import nets

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # foolbox 3.3 imports scipy by an old name
    import foolbox


@pytest.fixture
def batch(held_out):
    return held_out[0][:64], held_out[1][:64]


@pytest.fixture
def model(four_nets):
    return four_nets["undefended"]


@pytest.fixture
def by_foolbox(model):
    return foolbox.PyTorchModel(model, bounds=(0, 1))


def test_fgsm_equals_the_formula(model, batch):
    x, y = batch
    torch.testing.assert_close(fgsm(model, x, y, 0.1), great.fgsm(model, x, y, 0.1))


def test_fgsm_equals_foolbox(model, by_foolbox, batch):
    x, y = batch
    _, images, _ = foolbox.attacks.LinfFastGradientAttack(random_start=False)(by_foolbox, x, y, epsilons=0.1)
    torch.testing.assert_close(fgsm(model, x, y, 0.1), images)


@pytest.mark.parametrize(("steps", "step_size"), [(10, 0.01), (7, 0.04)])
def test_pgd_without_random_start_equals_foolbox(model, by_foolbox, batch, steps, step_size):
    x, y = batch
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
        abs_stepsize=step_size, steps=steps, random_start=False
    )
    _, images, _ = attack(by_foolbox, x, y, epsilons=0.1)
    mine = pgd(model, x, y, 0.1, steps=steps, step_size=step_size, random_start=False)
    torch.testing.assert_close(mine, images)
    torch.testing.assert_close(ifgsm(model, x, y, 0.1, steps=steps, step_size=step_size), images)


def test_l2_attacks_equal_foolbox(model, by_foolbox, batch):
    x, y = batch
    _, images, _ = foolbox.attacks.L2FastGradientAttack(random_start=False)(by_foolbox, x, y, epsilons=0.8)
    torch.testing.assert_close(fgsm(model, x, y, 0.8, norm="l2"), images)
    attack = foolbox.attacks.L2ProjectedGradientDescentAttack(abs_stepsize=0.3, steps=7, random_start=False)
    _, images, _ = attack(by_foolbox, x, y, epsilons=0.8)
    mine = pgd(model, x, y, 0.8, steps=7, step_size=0.3, random_start=False, norm="l2")
    torch.testing.assert_close(mine, images)


@pytest.mark.parametrize("size", [1.0, 1e-25])
def test_l2_attacks_stay_in_the_ball_and_follow_gradients_of_any_size(batch, size):
    torch.manual_seed(0)
    x, y = batch
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    (gradient,) = torch.autograd.grad(
        (size * F.cross_entropy(model(inputs := x.clone().requires_grad_()), y, reduction="sum")), inputs
    )
    moved = fgsm(
        model, x, y, 0.01, norm="l2", loss=lambda z, k: size * F.cross_entropy(z, k, reduction="none")
    )
    expected = (x + 0.01 * gradient / gradient.double().flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(0, 1)
    torch.testing.assert_close(moved, expected.float())
    for images in (pgd(model, x, y, 0.7, norm="l2"), random_noise(model, x, y, 0.7, norm="l2")):
        lengths = (images - x).flatten(1).norm(dim=1)
        assert lengths.max() <= 0.7 + 1e-5
        assert images.min() >= 0
        assert images.max() <= 1
    assert torch.equal(pgd(model, x, y, 0.0, norm="l2"), x)


def test_targeted_fgsm_and_pgd_equal_foolbox(model, by_foolbox, batch):
    x, y = batch
    targets = random_targets(y, 10, seed=3)
    goal = foolbox.criteria.TargetedMisclassification(targets)
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
        abs_stepsize=0.01, steps=10, random_start=False
    )
    _, images, _ = attack(by_foolbox, x, goal, epsilons=0.1)
    torch.testing.assert_close(ifgsm(model, x, y, 0.1, steps=10, step_size=0.01, targets=targets), images)


@pytest.mark.parametrize(
    "loss", ["cross_entropy", "margin", "dlr", lambda z, k: F.cross_entropy(z, k, reduction="none")]
)
@pytest.mark.parametrize("targeted", [False, True])
def test_every_attack_stays_inside_and_lowers_accuracy(model, batch, loss, targeted):
    x, y = batch
    targets = random_targets(y, 10) if targeted else None
    clean = (model(x).argmax(1) == y).float().mean()
    for images in (
        fgsm(model, x, y, 0.2, targets=targets, loss=loss),
        ifgsm(model, x, y, 0.2, targets=targets, loss=loss),
        pgd(model, x, y, 0.2, restarts=2, targets=targets, loss=loss),
    ):
        assert (images - x).abs().max() <= 0.2 + 1e-6
        assert images.min() >= 0
        assert images.max() <= 1
        assert (model(images).argmax(1) == y).float().mean() < clean
    if targeted:
        reached = (model(images).argmax(1) == targets).float().mean()
        assert reached > 0.25  # DLR lifts the target over the true class only, not over the others


def test_margin_and_dlr_climb_their_formulas():
    from manyloss.robustness.attacks import _to_climb

    z = torch.tensor([[3.0, 1.0, 2.0, -1.0]])
    y, t = torch.tensor([0]), torch.tensor([3])
    assert _to_climb(z, y, None, "margin").item() == pytest.approx(2 - 3)
    assert _to_climb(z, y, t, "margin").item() == pytest.approx(-1 - 3)
    assert _to_climb(z, y, None, "dlr").item() == pytest.approx((2 - 3) / (3 - 1))
    assert _to_climb(z, y, t, "dlr").item() == pytest.approx((-1 - 3) / (3 - (1 - 1) / 2))


def test_restarts_never_weaken_and_seeds_decide(model, batch):
    x, y = batch

    def accuracy(images):
        return (model(images).argmax(1) == y).float().mean()

    one = pgd(model, x, y, 0.08, steps=5, seed=1)
    assert torch.equal(one, pgd(model, x, y, 0.08, steps=5, seed=1))
    assert not torch.equal(one, pgd(model, x, y, 0.08, steps=5, seed=2))
    assert accuracy(pgd(model, x, y, 0.08, steps=5, seed=1, restarts=5)) <= accuracy(one)


def test_targets_are_wrong_classes_fixed_on_the_clean_image(model, batch):
    x, y = batch
    drawn = random_targets(y, 10, seed=0)
    assert not (drawn == y).any()
    assert torch.equal(drawn, random_targets(y, 10, seed=0))
    assert set(random_targets(torch.zeros(500, dtype=torch.int64), 10).tolist()) == set(range(1, 10))
    least = least_likely_targets(model, x, y)
    logits = model(x).scatter(1, y[:, None], torch.inf)
    assert torch.equal(least, logits.argmin(1))


def test_nothing_of_the_model_or_of_torch_changes(batch):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)
    )
    model[1].eval()  # a frozen BatchNorm in a model that trains
    x, y = batch
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    for attack in (fgsm, ifgsm, pgd, random_noise):
        attack(model, x, y, 0.1)
    assert [m.training for m in model] == [True, False, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    with torch.no_grad():
        assert not torch.equal(fgsm(model, x, y, 0.1), x)


WRONG = {
    "eps": ("1", None, 1.5, object()),
    "steps": ("1", None, 1.5, 0, object()),
    "restarts": ("1", None, 1.5, 0, object()),
    "tries": ("1", None, 1.5, 0, object()),
    "step_size": ("1", -0.1, object()),
    "seed": ("1", None, 1.5, object()),
    "random_start": ("no", None, 0, object()),
}


@pytest.mark.parametrize(
    ("attack", "setting"),
    [
        (attack, setting)
        for attack in (fgsm, ifgsm, pgd, random_noise)
        for setting in inspect.signature(attack).parameters
        if setting in WRONG
    ],
)
def test_a_setting_of_the_wrong_kind_is_named(model, batch, attack, setting):
    for wrong in WRONG[setting]:
        with pytest.raises((TypeError, ValueError), match=rf"^{setting} "):
            attack(model, *batch, **{"eps": 0.1, setting: wrong})


def test_a_model_is_a_network(batch):
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got .*Make one: Linear\("):
        fgsm(nn.Linear, *batch, 0.1)


def test_bad_input_is_refused(model, batch):
    x, y = batch
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\].*Move the normalisation into the model"):
        fgsm(model, x - 0.5, y, 0.1)
    with pytest.raises(
        ValueError, match=r"eps is in \[0, 1\] pixel units; received 8. Divide by 255: eps=0.03137"
    ):
        pgd(model, x, y, 8)
    with pytest.raises(ValueError, match="y must hold class numbers from 0 to 9"):
        ifgsm(model, x, y + 5, 0.1)
    with pytest.raises(ValueError, match=r"targets holds true labels; a targeted attack needs a wrong class"):
        fgsm(model, x, y, 0.1, targets=y)
    with pytest.raises(ValueError, match="received probabilities"):
        fgsm(nn.Sequential(model, nn.Softmax(1)), x, y, 0.1)
    with pytest.raises(
        ValueError, match="loss must be one of 'cross_entropy', 'margin', 'dlr'; received 'hinge'"
    ):
        fgsm(model, x, y, 0.1, loss="hinge")
    with pytest.raises(
        ValueError, match=r"The DLR loss needs at least 3 classes; received 2. Use loss='margin'"
    ):
        fgsm(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), x, y % 2, 0.1, loss="dlr")
    with pytest.raises(ValueError, match=r"do not depend on the input through a graph; remove detach\(\)"):
        fgsm(Detached(), x, y, 0.1)


class Detached(nn.Module):
    def forward(self, x):
        return x.detach().flatten(1)[:, :10]


def test_the_scaling_net_shows_why_margin_matters(four_nets, batch):
    x, y = batch
    scaled = four_nets["scaled"]
    assert isinstance(scaled, nets.Scaled)
    assert torch.equal(ifgsm(scaled, x, y, 0.2)[0], x[0])  # a zero gradient moves nothing
    assert (scaled(ifgsm(scaled, x, y, 0.2, loss="margin")).argmax(1) == y).float().mean() < 0.2
