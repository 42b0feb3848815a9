"""GradDrop against Algorithm 1 position by position, its theory, and the mistakes known from the wild.

The draw U is fixed by giving the comparison U < f(P) as `activation`: f is 0 or 1 then, and no draw matters.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from tests.problems import Given, names
from tests.reference.graddrop import clip_activation, graddrop, loss_change_moments, purity

SHAPES = {"flat": (5, 3), "maps": (4, 2, 3, 2), "one example": (1, 4), "sequence": (3, 4, 2)}


def fixed_draw(uniform: np.ndarray, k: float):
    """U < f(P) for a draw that is known."""
    drawn = torch.from_numpy(uniform)
    return lambda p: (drawn.to(p.dtype) < (k * (p - 0.5) + 0.5).clamp(0.0, 1.0)).to(p.dtype)


def random_gradients(count: int, shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng([count, seed, *shape])
    gradients = generator.normal(size=(count, *shape))
    gradients[generator.random(gradients.shape) < 0.2] = 0.0
    features = generator.normal(size=shape)
    features[generator.random(shape) < 0.15] = 0.0  # as after a ReLU
    return gradients, features


# ---------------------------------------------------------------- Algorithm 1


@pytest.mark.parametrize("leak", [0.0, 0.3, "per loss"])
@pytest.mark.parametrize("k", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("sum_over_batch", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_merged_gradient_is_the_oracles(shape: str, sum_over_batch: bool, k: float, leak) -> None:
    for count in (1, 2, 5):
        gradients, features = random_gradients(count, SHAPES[shape], 0)
        leaks = [0.1 * i for i in range(count)] if leak == "per loss" else [leak] * count
        drawn = np.random.default_rng(7).random(SHAPES[shape][1:] if sum_over_batch else SHAPES[shape])
        method = GradDrop(
            leak=leaks if leak == "per loss" else leak,
            sum_over_batch=sum_over_batch,
            activation=fixed_draw(drawn, k),
        )
        merged = method(torch.from_numpy(gradients), torch.from_numpy(features))
        expected = graddrop(gradients, features, drawn, clip_activation(k), leaks, sum_over_batch)
        np.testing.assert_allclose(merged.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_merged_gradient_at_shared_params_is_the_oracles(count: int) -> None:
    gradients, _ = random_gradients(count, (12,), 1)
    drawn = np.random.default_rng(3).random(12)
    merged = GradDrop(activation=fixed_draw(drawn, 1.0))(torch.from_numpy(gradients), None)
    expected = graddrop(gradients, None, drawn, clip_activation(1.0), [0.0] * count, True)
    np.testing.assert_allclose(merged.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("place", ["at_features", "at_shared_params"])
def test_inside_a_step(place: str) -> None:
    shape = (4, 3) if place == "at_features" else (12,)
    gradients, features = random_gradients(4, shape, 2)
    drawn = np.random.default_rng(5).random(3 if place == "at_features" else 12)
    given = Given(torch.from_numpy(gradients), torch.from_numpy(features))
    leak = {name: 0.25 * i for i, name in enumerate(names(4))}
    multi = MultiLoss(aggregator=GradDrop(leak=leak, activation=fixed_draw(drawn, 1.0)))
    merged, _ = getattr(given, place)(multi)
    seen = features if place == "at_features" else None
    expected = graddrop(gradients, seen, drawn, clip_activation(1.0), list(leak.values()), True)
    np.testing.assert_allclose(merged.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_losses_on_separate_parts_of_the_batch() -> None:
    """Section 3.2: only the batch sum lets such gradients meet; without it nothing is ever dropped."""
    features = torch.tensor([[1.0, -2.0], [3.0, 1.0], [-1.0, 0.5], [2.0, 1.0]], dtype=torch.float64)
    gradients = torch.zeros(2, 4, 2, dtype=torch.float64)
    gradients[0, :2] = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    gradients[1, 2:] = torch.tensor([[1.0, 1.0], [-2.0, -1.0]])
    # sgn(A) g summed: loss 0 has (2, 0), loss 1 has (-1 - 2, 1 - 1) = (-3, 0)
    positive = GradDrop(activation=lambda p: torch.ones_like(p))(gradients, features)
    negative = GradDrop(activation=lambda p: torch.zeros_like(p))(gradients, features)
    np.testing.assert_array_equal(positive[:, 0].numpy(), [1.0, 1.0, 0.0, 0.0])
    np.testing.assert_array_equal(negative[:, 0].numpy(), [0.0, 0.0, 1.0, -2.0])
    np.testing.assert_array_equal(positive[:, 1].numpy(), [1.0, 1.0, 1.0, -1.0])  # nothing is decided there
    alone = GradDrop(sum_over_batch=False, seed=0)(gradients, features)
    torch.testing.assert_close(alone, gradients.sum(0))


# ---------------------------------------------------------------- the draw


@pytest.mark.parametrize("k", [0.0, 0.5, 1.0, 3.0])
def test_a_positive_sign_is_kept_as_often_as_f_of_the_purity(k: float) -> None:
    """10000 positions at once; frequencies within five standard errors."""
    for positive, negative in [(1.0, 1.0), (3.0, 1.0), (1.0, 4.0), (2.0, 0.0), (0.0, 2.0)]:
        gradients = torch.tensor([positive, -negative], dtype=torch.float64).view(2, 1, 1).expand(2, 1, 10000)
        merged = GradDrop(k=k, seed=3)(gradients, torch.ones(1, 10000))
        kept = float((merged == positive).double().mean()) if positive else 0.0
        chance = clip_activation(k)(positive / (positive + negative))
        if positive and negative:
            assert set(merged.unique().tolist()) <= {positive, -negative}
        if positive:
            assert abs(kept - chance) <= 5 * math.sqrt(chance * (1 - chance) / 10000) + 1e-12


def test_a_pure_sign_is_never_dropped_at_the_default() -> None:
    gradients = torch.rand(4, 1, 20000, dtype=torch.float64)
    for sign in (1.0, -1.0):
        merged = GradDrop(seed=0)(sign * gradients, torch.ones(1, 20000))
        torch.testing.assert_close(merged, sign * gradients.sum(0))


@pytest.mark.parametrize("sum_over_batch", [True, False])
def test_every_position_has_a_draw_of_its_own(sum_over_batch: bool) -> None:
    """Wild bug: one draw for the whole layer. With batch sums the examples share their position's draw."""
    gradients = torch.ones(2, 8, 40, dtype=torch.float64)
    gradients[1] = -1.0
    merged = GradDrop(seed=0, sum_over_batch=sum_over_batch)(gradients, torch.ones(8, 40))
    signs = (merged > 0).double()
    per_position = signs.mean(0)
    if sum_over_batch:
        assert set(per_position.unique().tolist()) == {0.0, 1.0}
        assert 5 <= float(per_position.sum()) <= 35
    else:
        assert len(per_position.unique()) > 3


def test_positions_of_maps_are_decided_apart_and_summed_over_the_batch_only() -> None:
    gradients = torch.ones(2, 3, 4, 5, 5, dtype=torch.float64)
    gradients[1] = -1.0
    merged = GradDrop(seed=0)(gradients, torch.ones(3, 4, 5, 5))
    assert torch.equal(merged[0], merged[1])
    assert torch.equal(merged[0], merged[2])
    assert len(merged[0].reshape(4, -1).unique(dim=0)) > 1
    assert 0 < int((merged[0, 0] > 0).sum()) < 25


def test_a_seed_repeats_and_the_global_generator_is_left_alone() -> None:
    gradients = torch.randn(3, 4, 6)
    method, again, other = GradDrop(seed=1), GradDrop(seed=1), GradDrop(seed=2)
    before = torch.random.get_rng_state()
    first, second = method(gradients, torch.ones(4, 6)), method(gradients, torch.ones(4, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(again(gradients, torch.ones(4, 6)), first)
    assert not torch.equal(second, first)
    assert not torch.equal(other(gradients, torch.ones(4, 6)), first)


# ---------------------------------------------------------------- mistakes known from the wild


def test_a_leak_of_one_lets_everything_pass() -> None:
    """Wild bug: inverted leak."""
    gradients, features = (torch.from_numpy(array) for array in random_gradients(3, (4, 5), 3))
    torch.testing.assert_close(GradDrop(leak=1.0, seed=0)(gradients, features), gradients.sum(0))
    merged = GradDrop(leak=[1.0, 0.0, 0.0], activation=lambda p: torch.ones_like(p))(
        gradients[:, :1], features[:1].abs() + 1.0
    )
    others = gradients[1:, :1].clamp(min=0.0).sum(0)
    decided = gradients[:, 0].abs().sum(0) > 0
    torch.testing.assert_close(merged[0][decided], (gradients[0, :1] + others)[0][decided])


def test_the_sign_of_the_features_is_not_left_in_the_result() -> None:
    gradients = torch.tensor([[[1.0, -2.0]], [[3.0, -1.0]]], dtype=torch.float64)
    merged = GradDrop(seed=0)(gradients, torch.tensor([[-1.0, -1.0]]))
    torch.testing.assert_close(merged, gradients.sum(0))


def test_features_at_zero_kill_nothing_without_the_batch_sum() -> None:
    gradients = torch.tensor([[[1.0, -2.0]], [[3.0, -1.0]]], dtype=torch.float64)
    merged = GradDrop(seed=0, sum_over_batch=False)(gradients, torch.zeros(1, 2))
    torch.testing.assert_close(merged, gradients.sum(0))


def test_where_nothing_is_decided_everything_passes() -> None:
    """sum |G_i| = 0: features at zero in the whole batch, so M = 1."""
    gradients = torch.randn(3, 4, 2, dtype=torch.float64)
    features = torch.zeros(4, 2)
    torch.testing.assert_close(GradDrop(seed=0)(gradients, features), gradients.sum(0))


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
@pytest.mark.parametrize("sum_over_batch", [True, False])
def test_renormalize_keeps_the_norm_of_the_sum(sum_over_batch: bool, scale: float) -> None:
    """Wild bug: inverted ratio. The direction is that of the merged gradient without it."""
    gradients, features = (torch.from_numpy(array) for array in random_gradients(3, (4, 5), 4))
    gradients = gradients * scale
    settings = {"seed": 5, "sum_over_batch": sum_over_batch}
    plain = GradDrop(**settings)(gradients, features)
    merged = GradDrop(**settings, renormalize=True)(gradients, features)
    wanted = gradients.sum(0).norm()
    torch.testing.assert_close(merged.norm(), wanted, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(merged, plain * (wanted / plain.norm()), rtol=1e-9, atol=0.0)


def test_renormalize_acts_once_over_all_feature_tensors() -> None:
    small, large = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), torch.tensor([[3.0, -1.0, 2.0], [1.0, 1.0, -5.0]])
    points = [torch.ones(1, size, dtype=torch.float64, requires_grad=True) for size in (2, 3)]
    features = [point * 1.0 for point in points]
    losses = {
        name: (small[i].double() * features[0]).sum() + (large[i].double() * features[1]).sum()
        for i, name in enumerate("ab")
    }
    multi = MultiLoss(aggregator=GradDrop(seed=2, renormalize=True))
    multi.backward(losses, features=features)
    merged = torch.cat([point.grad.reshape(-1) for point in points])
    plain = torch.cat([small.sum(0), large.sum(0)]).double()
    torch.testing.assert_close(merged.norm(), plain.norm(), rtol=1e-9, atol=0.0)

    drawn = [point.detach().clone().requires_grad_(True) for point in points]
    features = [point * 1.0 for point in drawn]
    losses = {
        name: (small[i].double() * features[0]).sum() + (large[i].double() * features[1]).sum()
        for i, name in enumerate("ab")
    }
    MultiLoss(aggregator=GradDrop(seed=2)).backward(losses, features=features)
    unscaled = torch.cat([point.grad.reshape(-1) for point in drawn])
    torch.testing.assert_close(merged, unscaled * (plain.norm() / unscaled.norm()), rtol=1e-9, atol=1e-12)


def test_renormalize_of_zero_stays_zero() -> None:
    zeros = torch.zeros(2, 3, 4)
    assert not bool(GradDrop(renormalize=True, seed=0)(zeros, torch.ones(3, 4)).any())


def test_renormalize_and_rescale_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="rescale='sum_norm' and GradDrop\\(renormalize=True\\)"):
        MultiLoss(aggregator=GradDrop(renormalize=True), rescale="sum_norm")


# ---------------------------------------------------------------- theory


def positions(gradients: list[float], draws: int = 4000) -> Tensor:
    """The same gradients at many positions of one example: [T, 1, draws]."""
    return torch.tensor(gradients, dtype=torch.float64).view(-1, 1, 1).expand(-1, 1, draws)


@pytest.mark.parametrize(
    ("gradients", "still"),
    [
        ([0.0, 0.0, 0.0], True),
        ([1.0, -1.0, 0.0], False),
        ([0.0, 0.0, 1e-9], False),
        ([2.0, -1.0, -1.0], False),
    ],
)
@pytest.mark.parametrize("k", [0.0, 1.0, 2.0])
def test_proposition_1_joint_minima_are_the_only_still_points(gradients, still: bool, k: float) -> None:
    """The update is always zero if and only if every gradient is: a sum of zero is not enough."""
    merged = GradDrop(k=k, seed=0)(positions(gradients), torch.ones(1, 4000))
    assert (not bool(merged.any())) == still
    if not still and k <= 1.0:
        assert bool((merged != 0).all() if min(gradients) < 0 < max(gradients) else merged.any())


@pytest.mark.parametrize("sum_over_batch", [True, False])
@pytest.mark.parametrize(
    "gradients", [[1.0, -2.0], [3.0, -1.0, 0.5], [1.0, -1.0], [2.0, 1.0], [-1.0, -0.1, 0.4]]
)
def test_proposition_3_the_expected_step_is_plain_sgds(gradients, sum_over_batch: bool) -> None:
    """k = 1, unbatched: E[update] = sum of the gradients."""
    merged = GradDrop(seed=1, sum_over_batch=sum_over_batch)(
        positions(gradients, 40000), torch.ones(1, 40000)
    )
    deviation = float(merged.std()) / math.sqrt(40000)
    assert abs(float(merged.mean()) - sum(gradients)) <= 5 * deviation + 1e-9


@pytest.mark.parametrize("gradients", [[1.0, -2.0], [3.0, -1.0, 0.5], [2.0, -1.5]])
def test_proposition_3_mean_and_variance_of_the_loss_change(gradients) -> None:
    """Delta L = -(sum g) update: its mean falls and its variance falls as k grows in [0, 1]."""
    p, n = sum(g for g in gradients if g > 0), -sum(g for g in gradients if g < 0)
    last = (math.inf, math.inf)
    for k in (0.0, 0.25, 0.5, 1.0):
        update = GradDrop(k=k, seed=4)(positions(gradients, 40000), torch.ones(1, 40000))
        change = -sum(gradients) * update
        mean, variance = loss_change_moments(p, n, clip_activation(k))
        # eq. 10 and 17 of the appendix, with the slip of eq. 6 corrected: (1 - f(P)), not (1 - P)
        assert mean == pytest.approx(-0.5 * (k + 1) * (p - n) ** 2)
        assert variance == pytest.approx(
            0.25 * (p - n) ** 2 * ((p - n) ** 2 * (-(k**2) - 1) + 2 * p**2 + 2 * n**2)
        )
        assert float(change.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / 40000) + 1e-9)
        assert float(change.var()) == pytest.approx(variance, rel=0.05, abs=1e-9)
        assert mean <= last[0]
        assert variance <= last[1] + 1e-12
        last = (mean, variance)
    assert last[0] == pytest.approx(-((p - n) ** 2))  # k = 1 is plain SGD's


def test_corollary_3_1_a_steeper_activation_gains_more_with_less_variance() -> None:
    """Activations of the corollary, from flat to steep; 40000 draws of each agree with their moments."""
    family = [
        lambda x: 0.5 + 0 * x,
        lambda x: 0.3 * (x - 0.5) + 0.5,
        lambda x: x,
        lambda x: x**2 * (3 - 2 * x),
        lambda x: x**3 * (x * (6 * x - 15) + 10),
    ]
    for p, n in [(2.0, 1.0), (1.0, 3.0)]:
        moments = [loss_change_moments(p, n, activation) for activation in family]
        for gentle, steep in pairwise(moments):
            assert steep[0] <= gentle[0] <= 0.0
            assert steep[1] <= gentle[1]
        for activation, (mean, variance) in zip(family, moments, strict=True):
            method = GradDrop(activation=activation, seed=2)
            change = -(p - n) * method(positions([p, -n], 40000), torch.ones(1, 40000))
            assert float(change.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / 40000))


def test_proposition_2_is_false_as_stated() -> None:
    """E|update| = (p^2 + n^2) / (p + n) at k = 1: moving away from a minimum of one loss can lower it.

    n = 1: p = 0 gives 1, p = 0.1 gives 0.918. It holds for k = 0, where E|update| = (p + n) / 2.
    """

    def expected_size(p: float, n: float, k: float) -> float:
        keep = clip_activation(k)(p / (p + n))
        return keep * p + (1 - keep) * n

    assert expected_size(0.0, 1.0, 1.0) == pytest.approx(1.0)
    assert expected_size(0.1, 1.0, 1.0) == pytest.approx((0.01 + 1.0) / 1.1)
    assert expected_size(0.1, 1.0, 1.0) == pytest.approx(0.918, abs=5e-4)
    update = GradDrop(seed=0)(positions([0.1, -1.0], 40000), torch.ones(1, 40000))
    assert float(update.abs().mean()) == pytest.approx(0.918, abs=5 * float(update.abs().std()) / 200)
    sizes = [expected_size(p, 1.0, 0.0) for p in (0.0, 0.1, 0.2, 0.5, 1.0)]
    assert sizes == sorted(sizes)


def test_the_expected_step_at_the_virtual_weight_is_plain_sgds() -> None:
    """With batch sums the proposition speaks of the virtual weight: E[sum_b sgn(A) o result] = sum_i G_i."""
    gradients, features = random_gradients(3, (4, 3), 9)
    features = np.where(features == 0.0, 0.5, features)
    rows, point = torch.from_numpy(gradients), torch.from_numpy(features)
    method = GradDrop(seed=0)
    signals = torch.stack([(method(rows, point) * point.sign()).sum(0) for _ in range(4000)])
    expected = (rows * point.sign()).sum(1).sum(0)
    error = signals.std(dim=0) / math.sqrt(4000)
    assert bool(((signals.mean(0) - expected).abs() <= 5 * error + 1e-9).all())


def test_purity_lies_between_zero_and_one() -> None:
    """Eq. 1, seen through an activation that records what it is given."""
    gradients, features = random_gradients(4, (5, 6), 11)
    seen: list[Tensor] = []

    def record(p: Tensor) -> Tensor:
        seen.append(p)
        return p

    for sum_over_batch in (True, False):
        GradDrop(activation=record, seed=0, sum_over_batch=sum_over_batch)(
            torch.from_numpy(gradients), torch.from_numpy(features)
        )
        expected = purity(gradients, features, sum_over_batch)
        np.testing.assert_allclose(seen[-1].numpy(), expected, atol=1e-12)
        assert float(seen[-1].min()) >= 0.0
        assert float(seen[-1].max()) <= 1.0


# ---------------------------------------------------------------- bad settings and use alone


@pytest.mark.parametrize("leak", [-0.1, 1.1, [0.0, 2.0], {"a": float("nan")}])
def test_a_leak_outside_of_zero_to_one_is_refused_when_built(leak) -> None:
    with pytest.raises(ValueError, match=r"leak must be in \[0, 1\]"):
        GradDrop(leak=leak)


@pytest.mark.parametrize("k", [-1.0, float("nan"), float("inf")])
def test_a_negative_steepness_is_refused_when_built(k: float) -> None:
    with pytest.raises(ValueError, match="k must be a finite number, 0 or more"):
        GradDrop(k=k)


def test_a_leak_for_other_losses_is_refused() -> None:
    given = Given(torch.ones(2, 3, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="leak has 3 values for the 2 losses 'loss_0', 'loss_1'"):
        given.at_features(MultiLoss(aggregator=GradDrop(leak=[0.0, 0.1, 0.2])))
    assert given.point.grad is None


def test_used_alone_it_takes_any_number_of_losses() -> None:
    method = GradDrop(seed=0)
    for count in (3, 2, 5):
        assert method(torch.randn(count, 4, 6), torch.randn(4, 6)).shape == (4, 6)
        assert method(torch.randn(count, 6), None).shape == (6,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    assert GradDrop(seed=0)(torch.randn(2, 3, 4).to(dtype), torch.randn(3, 4).to(dtype)).dtype == dtype


def test_complex_gradients_are_pairs_of_real_ones() -> None:
    gradients = torch.randn(3, 4, 5, dtype=torch.complex128)
    features = torch.randn(4, 5, dtype=torch.complex128)
    merged = GradDrop(seed=0)(gradients, features)
    pairs = GradDrop(seed=0)(torch.view_as_real(gradients), torch.view_as_real(features))
    torch.testing.assert_close(torch.view_as_real(merged), pairs, rtol=0.0, atol=0.0)
    assert GradDrop(seed=0)(torch.randn(3, 7, dtype=torch.complex64), None).dtype == torch.complex64


def test_the_memory_layout_changes_nothing() -> None:
    gradients, features = torch.randn(3, 4, 2, 5, 5), torch.randn(4, 2, 5, 5)
    turned = gradients.transpose(2, 4).contiguous().transpose(2, 4)
    assert not turned.is_contiguous()
    merged = GradDrop(seed=0, renormalize=True)(turned, features.to(memory_format=torch.channels_last))
    torch.testing.assert_close(merged, GradDrop(seed=0, renormalize=True)(gradients, features))


@pytest.mark.parametrize(
    ("activation", "text"),
    [
        (lambda p: p + 0.5, r"numbers in \[0, 1\]; received numbers from 0\.\d+ to 1\.\d+"),
        (lambda p: p * float("nan"), r"numbers in \[0, 1\]; received numbers from nan"),
        (lambda p: p.mean(), r"the shape it was given, \[6\]; received shape \[\]"),
        (lambda p: 0.5, r"the shape it was given, \[6\]; received a float"),
        (lambda p: 1 / 0, r"failed on purities of shape \[6\] with ZeroDivisionError"),
    ],
)
def test_an_activation_that_gives_no_probabilities_is_named(activation, text: str) -> None:
    with pytest.raises(ValueError, match=f"GradDrop: activation= .*{text}"):
        GradDrop(activation=activation, seed=0)(torch.randn(3, 4, 6), torch.randn(4, 6))


@pytest.mark.parametrize("settings", [{}, {"renormalize": True}, {"sum_over_batch": False}, {"leak": 0.2}])
@pytest.mark.parametrize("at_features", [True, False])
def test_nothing_waits_for_the_device(settings: dict, at_features: bool) -> None:
    """A tensor on "meta" has no numbers, so reading one is an error."""
    gradients = torch.empty(3, 4, 6, device="meta")
    features = torch.empty(4, 6, device="meta") if at_features else None
    merged = GradDrop(seed=0, **settings)(gradients if at_features else gradients.flatten(1), features)
    assert merged.device.type == "meta"
