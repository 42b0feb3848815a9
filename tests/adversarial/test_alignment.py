import copy

import pytest
import torch
from torch import nn

from manyloss import MultiLoss
from manyloss.adversarial import GradientAlignment, networks
from manyloss.weighting import InitialLoss
from tests.adversarial.nets import same, snapshot
from tests.problems import Given
from tests.reference.great import AlignmentOracle


def classifier(count=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.LeakyReLU(0.2), nn.Linear(6, count)).double()


def test_matches_algorithm_3_over_many_steps():
    judge = classifier()
    oracle = AlignmentOracle(copy.deepcopy(judge), 3, (8,), lr=0.05)
    method = GradientAlignment(judge, lr=0.05)
    for step in range(40):
        gradients = torch.randn(3, 5, 8, dtype=torch.float64) * torch.tensor([0.1, 1.0, 5.0]).view(3, 1, 1)
        torch.testing.assert_close(
            method(gradients, torch.zeros(5, 8)), oracle.step(gradients), msg=f"step {step}"
        )
    assert float(method.gamma("2").min()) >= 1e-3


def test_the_first_step_is_the_plain_sum():
    gradients = torch.randn(3, 5, 2, 4, 4)
    merged = GradientAlignment()(gradients, torch.zeros(5, 2, 4, 4))
    torch.testing.assert_close(merged, gradients.sum(0))


def test_one_loss_stays_a_plain_backward():
    method = GradientAlignment()
    for _ in range(3):
        gradients = torch.randn(1, 5, 8)
        torch.testing.assert_close(method(gradients, torch.zeros(5, 8)), gradients[0])


def test_gammas_are_clamped_after_their_step():
    method = GradientAlignment(classifier(2), optimizer=lambda parameters: torch.optim.SGD(parameters, 1e4))
    method(torch.randn(2, 5, 8, dtype=torch.float64), torch.zeros(5, 8))
    assert torch.cat([method.gamma("0"), method.gamma("1")]).min() == 1e-3


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(8, 1) for _ in range(3))

    def losses(self, x):
        features = self.encoder(x)
        scales = (1.0, 10.0, 0.1)
        return features, {
            name: scale * (head(features) - i).square().mean()
            for i, (name, head, scale) in enumerate(zip("abc", self.heads, scales, strict=True))
        }


def train(model, multi, batches):
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for x in batches:
        optimizer.zero_grad()
        features, losses = model.losses(x)
        multi.backward(losses, features=features)
        optimizer.step()


def test_works_with_initial_loss_and_heads_see_no_gamma():
    model = Shared()
    multi = MultiLoss(weighting=InitialLoss(), aggregator=GradientAlignment(lr=0.5))
    assert not list(multi.parameters())
    train(model, multi, [torch.randn(16, 4) for _ in range(5)])
    accuracy = multi.aggregator.classifier_accuracy
    assert 0 <= accuracy <= 1
    assert not torch.equal(multi.aggregator.gamma("a"), torch.ones(8))
    initial = dict(zip("abc", multi.weighting.state.initial, strict=True))
    model.zero_grad()
    features, losses = model.losses(torch.randn(16, 4))
    plain = [
        torch.autograd.grad(losses[name], head.weight, retain_graph=True)[0] / initial[name]
        for name, head in zip("abc", model.heads, strict=True)
    ]
    multi.backward(losses, features=features)
    for head, expected in zip(model.heads, plain, strict=True):
        torch.testing.assert_close(head.weight.grad, expected)


def test_state_continues_bit_by_bit_into_a_fresh_object():
    batches = [torch.randn(16, 4) for _ in range(6)]
    torch.manual_seed(1)
    model = Shared()
    multi = MultiLoss(weighting=InitialLoss(), aggregator=GradientAlignment(lr=0.1))
    multi.set_progress(0.2)
    train(model, multi, batches[:3])
    fresh = MultiLoss(weighting=InitialLoss(), aggregator=GradientAlignment(lr=0.1, seed=99))
    fresh.load_state_dict(copy.deepcopy(multi.state_dict()))
    twin = copy.deepcopy(model)
    train(model, multi, batches[3:])
    train(twin, fresh, batches[3:])
    assert same(snapshot(model), twin)
    for name in "abc":
        assert torch.equal(multi.aggregator.gamma(name), fresh.aggregator.gamma(name))


def test_an_absent_loss_keeps_its_gamma():
    method = GradientAlignment(lr=0.1)
    method.start(("a", "b", "c"))
    for _ in range(3):
        method(torch.randn(3, 5, 8), torch.zeros(5, 8), ["a", "b", "c"])
    before = method.gamma("b").clone()
    # Adam's momentum may not move what has no gradient
    method(torch.randn(2, 5, 8), torch.zeros(5, 8), ["a", "c"])
    assert torch.equal(method.gamma("b"), before)


def test_several_feature_tensors_have_their_own_classifiers():
    method = GradientAlignment()
    method.start(["a", "b"])
    gradients = [torch.randn(2, 4, 8), torch.randn(2, 4, 3, 5, 5)]
    merged = method.aggregate(gradients, [torch.zeros(4, 8), torch.zeros(4, 3, 5, 5)], ["a", "b"])
    method.commit()
    assert [each.shape for each in merged] == [(4, 8), (4, 3, 5, 5)]
    assert method.gamma("a", 1).shape == (3, 5, 5)
    with pytest.raises(ValueError, match="GradientAlignment got one classifier for 2 feature tensors"):
        GradientAlignment(networks.mlp(8, 2)).aggregate(gradients, [torch.zeros(4, 8)] * 2, ["a", "b"])
    with pytest.raises(ValueError, match="started with 2 feature tensors; received 1"):
        method.aggregate(gradients[:1], [torch.zeros(4, 8)], ["a", "b"])


def test_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match=r"received gradients at shared parameters. Pass features="):
        GradientAlignment()(torch.randn(2, 8), None)
    method = GradientAlignment()
    method(torch.randn(2, 4, 8), torch.zeros(4, 8))
    with pytest.raises(
        ValueError, match=r"holds one number per loss and feature, \[8\]; received gradients for \[7\]"
    ):
        method(torch.randn(2, 4, 7), torch.zeros(4, 7))
    with pytest.raises(ValueError, match=r"the classifier of GradientAlignment must return shape \[8, 2\]"):
        GradientAlignment(networks.mlp(8, 5))(torch.randn(2, 4, 8), torch.zeros(4, 8))


def test_the_generators_of_gpus_are_not_seeded(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    Given(torch.randn(2, 4, 3)).at_features(MultiLoss(aggregator=GradientAlignment()))
    assert seeded == []


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    GradientAlignment()(torch.zeros(2, 4, 8), torch.zeros(4, 8))
    assert torch.equal(state, torch.get_rng_state())


def test_alignment_takes_away_what_the_classifier_knows():
    """Two losses whose gradients differ by their scale: the gammas can hide it, and a coin has log 2."""

    def last_losses(method):
        scales = torch.tensor([0.2, 1.0]).view(2, 1, 1)
        seen = []
        for _ in range(300):
            method((torch.randn(2, 64, 8) + 0.5) * scales / 64, torch.zeros(64, 8))
            seen.append(float(method.state.loss))
        return sum(seen[-50:]) / 50

    class Still(GradientAlignment):
        """The gammas stay ones."""

        def commit(self):
            super().commit()
            self.state.gammas[0].fill_(1.0)

    assert last_losses(Still(lr=1e-2)) < 0.1
    assert last_losses(GradientAlignment(lr=1e-2)) > 0.6


def test_a_failed_first_step_leaves_no_trace_and_the_next_one_learns():
    """Out of memory in the backward, then retried: the optimiser must not hold what was thrown away."""
    judge = classifier(2)
    before = copy.deepcopy(judge.state_dict())
    multi = MultiLoss(aggregator=GradientAlignment(judge, lr=0.1))
    calls = []

    def fail_at_first(gradient):
        calls.append(gradient)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("not enough")

    def step():
        point = torch.ones(4, 8, dtype=torch.float64, requires_grad=True)
        point.register_hook(fail_at_first)
        features = point * 1.0
        losses = {"a": (features * torch.randn(4, 8)).sum(), "b": 3 * (features * torch.randn(4, 8)).sum()}
        return multi.backward(losses, features=features)

    with pytest.raises(torch.OutOfMemoryError):
        step()
    assert multi.aggregator.state is None
    assert all(torch.equal(value, before[key]) for key, value in judge.state_dict().items())
    for _ in range(3):
        step()
    assert not torch.equal(multi.aggregator.gamma("a"), torch.ones(8, dtype=torch.float64))
    assert not torch.equal(judge[1].weight, before["1.weight"])


def test_a_failed_later_step_leaves_no_trace():
    """Not in the statistics of a batch norm, either."""
    method = GradientAlignment(lr=0.1)
    method.start(["0", "1"])
    gradients, features = torch.randn(2, 16, 8), torch.zeros(16, 8)
    method.aggregate([gradients], [features], ["0", "1"])
    method.commit()
    before = copy.deepcopy(method.state_dict())
    method.aggregate([gradients], [features], ["0", "1"])
    method.discard()
    method.commit()
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_features_without_a_feature_axis():
    method = GradientAlignment(lr=0.1)
    gradients = torch.randn(2, 16)
    torch.testing.assert_close(method(gradients, torch.zeros(16)), gradients.sum(0))
    method(gradients, torch.zeros(16))
    assert method.gamma("0").shape == ()
    assert method.gamma("0") != 1.0


def test_a_loaded_state_goes_into_the_classifier_that_was_given():
    method = GradientAlignment(classifier(2), lr=0.1)
    gradients, features = torch.randn(2, 16, 8).double(), torch.zeros(16, 8)
    method(gradients, features)
    judge = classifier(2)
    fresh = GradientAlignment(judge, lr=0.1)
    fresh.load_state_dict(method.state_dict())
    for each in (method, fresh):
        each(gradients, features)
    assert torch.equal(judge[1].weight, method.state.classifiers[0][1].weight)
    with pytest.raises(ValueError, match="another classifier of GradientAlignment"):
        GradientAlignment(networks.mlp(8, 2)).load_state_dict(method.state_dict())
