"""Ways of training: what they minimise, what they keep, and that a resumed trial is the unbroken one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manyloss.adversarial import GradientDefense, GradientDistillation, PlainTraining, networks
from manyloss.lab.recipes._adversarial_training import (
    COSINE_EVERY,
    AdversarialTraining,
    Classifier,
    LibraryMethod,
    fgsm_training,
    pgd_training,
    trades,
)
from manyloss.robustness import fgsm, pgd


def small_network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


@pytest.fixture
def batch():
    return torch.rand(12, 3, 8, 8), {"class": torch.arange(12) % 10}


def gradients(model):
    return [p.grad for p in model.parameters()]


def test_fgsm_training_is_half_the_clean_and_half_the_adversarial_loss(batch):
    x, targets = batch
    model, other = Classifier(small_network()), small_network()
    result = fgsm_training(0.2).step(model, x, targets)
    adversarial = fgsm(other, x, targets["class"], 0.2)
    logits = other(torch.cat([x, adversarial]))
    clean_loss = F.cross_entropy(logits[:12], targets["class"])
    loss = 0.5 * (clean_loss + F.cross_entropy(logits[12:], targets["class"]))
    loss.backward()
    torch.testing.assert_close(result.losses["class"], loss.detach().double())
    torch.testing.assert_close(gradients(model), gradients(other))


def test_pgd_training_sees_adversarial_images_only_and_starts_anew_in_every_step(batch):
    x, targets = batch
    seen = []
    way = pgd_training(0.1, steps=2, seed=3)
    make = way.make
    way.make = lambda *arguments: seen.append(make(*arguments)) or seen[-1]
    network = small_network()
    model = Classifier(network)
    frozen = copy.deepcopy(network)
    for _ in range(2):
        way.step(model, x, targets)
    assert not torch.equal(seen[0], seen[1])
    torch.testing.assert_close(seen[0], pgd(frozen, x, targets["class"], 0.1, steps=2, seed=3 * 1_000_003))
    assert 0 <= way.watched["accuracy under attack"] <= 1


def test_a_way_without_clean_images_trains_on_what_it_made(batch):
    x, targets = batch
    model, other = Classifier(small_network()), small_network()
    AdversarialTraining(lambda network, x, y, number: 1 - x, clean=False).step(model, x, targets)
    F.cross_entropy(other(1 - x), targets["class"]).backward()
    torch.testing.assert_close(gradients(model), gradients(other))


def test_trades_asks_for_the_label_on_clean_images_and_for_the_same_answer_on_its_own(batch):
    x, targets = batch
    network, other = small_network().eval(), small_network().eval()  # BatchNorm treats images apart
    way = trades(0.1, beta=2.0, steps=3, seed=1)
    moved = way.make(network, x, targets["class"], 0)
    assert 0 < float((moved - x).abs().max()) <= 0.1 + 1e-6
    way.step(Classifier(network), x, targets)
    clean, others = other(x).log_softmax(1), other(moved).log_softmax(1)
    apart = (clean.exp() * (clean - others)).sum(1)
    start = other(x + 0.1 * torch.rand_like(x)).log_softmax(1)
    assert apart.mean() > (clean.exp() * (clean - start)).sum(1).mean()
    (F.nll_loss(clean, targets["class"]) + 2.0 * apart.mean()).backward()
    torch.testing.assert_close(gradients(network), gradients(other))


def defense(model):
    torch.manual_seed(5)
    return LibraryMethod(GradientDefense(model.network, networks.leaky(small_network(1))))


def distillation(model):
    torch.manual_seed(5)
    judge = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1))
    return LibraryMethod(GradientDistillation(model.network, small_network(2).eval(), judge))


WAYS = {
    "defense": defense,
    "distillation": distillation,
    "fgsm": lambda model: fgsm_training(0.1),
    "pgd": lambda model: pgd_training(0.1, steps=2, seed=0),
    "trades": lambda model: trades(0.1, beta=6.0, steps=2, seed=0),
}


@pytest.mark.parametrize("kind", WAYS)
def test_a_resumed_way_goes_on_bit_by_bit(kind, batch):
    x, targets = batch

    def steps(model, way, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            way.step(model, x, targets)
            optimizer.step()

    model = Classifier(small_network())
    way = WAYS[kind](model)
    optimizer = torch.optim.Adam(model.parameters())
    way.set_progress(0.5)
    steps(model, way, optimizer, 3)
    saved = copy.deepcopy((model.state_dict(), way.state_dict(), optimizer.state_dict()))
    steps(model, way, optimizer, 3)

    other = Classifier(small_network(9))
    resumed = WAYS[kind](other)
    optimizer = torch.optim.Adam(other.parameters())
    other.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[2])
    resumed.load_state_dict(saved[1])
    steps(other, resumed, optimizer, 3)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["defense", "distillation"])
def test_the_networks_that_the_trial_keeps_are_not_kept_twice(kind):
    model = Classifier(small_network())
    kept = WAYS[kind](model).state_dict()["method"]
    assert not [name for name in kept if name.startswith(("model.", "student.", "teacher."))]
    assert any(name.startswith("adversary.") for name in kept)


def test_untrained_averages_of_batchnorm_are_no_finding(batch):
    """In the first step they are of no image, and the gradients of both modes have nothing in common."""
    x, targets = batch
    model = Classifier(small_network())
    way = LibraryMethod(PlainTraining(model.network))
    for step in range(1, COSINE_EVERY + 2):
        way.step(model, x, targets)
        assert ("batchnorm cosine" in way.watched) == (step == COSINE_EVERY)


def test_what_a_method_measures_is_watched_and_its_warnings_are_counted(batch):
    x, targets = batch
    model = Classifier(small_network())
    nn.init.zeros_(model.network[0].weight)  # dead: every input gradient is 0
    way = defense(model)
    for _ in range(2):
        way.step(model, x, targets)
    assert {"auxiliary accuracy", "logit drift", "gradient rms", "zero share", "alpha", "beta"} <= set(
        way.watched
    )
    assert way.watched["zero share"] == 1.0
    kinds = [kind for kind in way.warnings if "exactly zero" in kind]
    assert kinds == ["… of the model's input gradients are exactly zero: the model saturates."]
    assert way.warnings[kinds[0]] == 2
