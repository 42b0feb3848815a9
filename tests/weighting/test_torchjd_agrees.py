"""Where TorchJD has a method too, both give the same step, up to its regularisation and solvers."""

import numpy as np
import pytest
import torch

from manyloss import weighting as own
from manyloss.aggregation import GradDrop
from tests.problems import names
from tests.weighting.by_values import Values
from tests.weighting.rows import KINDS, rows_of, step_of

aggregation = pytest.importorskip("torchjd.aggregation")
scalarization = pytest.importorskip("torchjd.scalarization")

SAME = {  # name -> (ours, theirs, relative tolerance, kinds of rows)
    "upgrad": (own.UPGrad, aggregation.UPGrad, 1e-3, ["wide", "alike", "conflict"]),
    "mgda": (own.MGDA, lambda: aggregation.MGDA(epsilon=1e-9, max_iters=20000), 2e-3, KINDS),
    "cagrad": (own.CAGrad, lambda: aggregation.CAGrad(c=0.4), 1e-3, ["wide", "alike", "conflict"]),
    "imtl-g": (own.IMTLG, aggregation.IMTLG, 1e-6, KINDS),
    "aligned-mtl": (own.AlignedMTL, aggregation.AlignedMTL, 1e-6, KINDS),
    "aligned-mtl-rmse": (
        lambda: own.AlignedMTL("rmse"), lambda: aggregation.AlignedMTL(scale_mode="rmse"), 1e-6, KINDS
    ),
    "fairgrad": (
        lambda: own.FairGrad(2.0), lambda: aggregation.FairGrad(2.0, max_iters=1000), 1e-4, ["wide", "alike"]
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "kind"), [(name, kind) for name, (_, _, _, kinds) in SAME.items() for kind in kinds]
)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_step_is_theirs(method: str, kind: str, count: int) -> None:
    ours, theirs, tolerance, _ = SAME[method]
    for seed in range(2 if method == "mgda" else 4):  # theirs takes 20,000 steps
        rows = rows_of(kind, count, seed)
        expected = theirs()(torch.from_numpy(rows)).numpy()
        size = (
            np.linalg.norm(rows, axis=1).max() if method in ("upgrad", "mgda") else np.linalg.norm(expected)
        )
        np.testing.assert_allclose(step_of(ours(), rows), expected, atol=tolerance * size)


@pytest.mark.filterwarnings("ignore")  # of its solver
def test_nash_points_their_way() -> None:
    """Theirs is the published approximation, at another scale."""
    for seed in range(3):
        rows = rows_of("wide", 3, seed)
        theirs = aggregation.NashMTL(n_tasks=3, max_norm=0.0)(torch.from_numpy(rows)).numpy()
        ours = step_of(own.NashMTL(), rows)
        assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) >= 0.995


def test_pcgrad_of_two() -> None:
    """With more, the order of the projections is drawn."""
    for seed in range(4):
        rows = rows_of("conflict", 2, seed)
        theirs = aggregation.PCGrad()(torch.from_numpy(rows)).numpy()
        np.testing.assert_allclose(step_of(own.PCGrad(), rows), theirs, rtol=1e-9)


def test_graddrop_passes_the_same_signs_as_often() -> None:
    """Every position is one of two sums, drawn; over many positions both come up as often."""
    rows = torch.from_numpy(np.repeat(rows_of("wide", 3, 0)[:, :4], 20_000, axis=1))
    theirs = aggregation.GradDrop()(rows).view(4, -1)
    ours = GradDrop(seed=0)(rows).view(4, -1)
    for mine, other in zip(ours, theirs, strict=True):
        assert set(mine.tolist()) == set(other.tolist())
        spread = float(other.std()) / 100  # of a mean of 20 000 draws, less than that by chance
        assert abs(float(mine.mean() - other.mean())) <= 3 * spread


def test_gradvac_of_two_over_steps() -> None:
    ours, theirs = own.GradVac(0.3, seed=0), aggregation.GradVac(beta=0.3)
    for step in range(20):
        rows = rows_of("alike" if step % 2 else "conflict", 2, step)
        np.testing.assert_allclose(step_of(ours, rows), theirs(torch.from_numpy(rows)).numpy(), rtol=1e-5)


def slopes(scalarizer, losses: np.ndarray) -> np.ndarray:
    given = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(scalarizer(given), [given])
    return found.numpy()


def test_scalarizers() -> None:
    for seed in range(4):
        losses = np.exp(np.random.default_rng(seed).normal(size=4))
        geometric, stch = Values(own.GeometricLoss())(losses), Values(own.STCH(0.3))(losses)
        np.testing.assert_allclose(geometric, slopes(scalarization.GeometricMean(), losses), rtol=1e-9)
        np.testing.assert_allclose(stch, slopes(scalarization.STCH(0.3), losses), rtol=1e-6)


def test_fixed_and_drawn_weights() -> None:
    losses = np.array([1.0, 2.0, 5.0])
    weights = [0.2, 0.3, 0.5]
    theirs = slopes(scalarization.Constant(torch.tensor(weights).double()), losses)
    np.testing.assert_allclose(Values(own.Static(weights))(losses), theirs)
    np.testing.assert_allclose(Values(own.Equal())(losses), slopes(scalarization.Sum(), losses))
    steps = Values(own.Random(seed=0))  # theirs sum to 1, ours to the number of losses
    ours = np.stack([steps(losses) for _ in range(500)]) / 3
    others = np.stack([slopes(scalarization.Random(), losses) for _ in range(500)])
    np.testing.assert_allclose(ours.mean(0), others.mean(0), atol=0.06)
    np.testing.assert_allclose(ours.std(0), others.std(0), atol=0.04)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(own.IMTLL, scalarization.IMTLL), (own.Uncertainty, scalarization.UW)],
)
def test_learned_scales(ours, theirs) -> None:
    steps, scalarizer = Values(ours(lr=0.1)), theirs(3)
    optimizer = torch.optim.Adam(scalarizer.parameters(), lr=0.1)
    for losses in np.exp(np.random.default_rng(0).normal(size=(10, 3))):
        np.testing.assert_allclose(steps(losses), slopes(scalarizer, losses), rtol=1e-5)
        optimizer.zero_grad()
        scalarizer(torch.from_numpy(losses)).backward()
        optimizer.step()


def test_dwa_over_epochs() -> None:
    steps, scalarizer = Values(own.DWA(temperature=1.5)), scalarization.DWA(temperature=1.5)
    for epoch in np.exp(np.random.default_rng(0).normal(size=(4, 3, 3))):
        for losses in epoch:
            np.testing.assert_allclose(steps(losses), slopes(scalarizer, losses), rtol=1e-9)
        steps.multi.end_epoch()
        scalarizer.step()


def test_famo_with_losses_of_the_same_batch() -> None:
    ours, theirs = own.FAMO(lr=0.1), scalarization.FAMO(3, lr=0.1)
    steps = Values(ours)
    for losses in np.exp(np.random.default_rng(0).normal(size=(15, 3))):
        np.testing.assert_allclose(steps(losses), slopes(theirs, losses), rtol=1e-4)
        after = losses * np.array([0.7, 0.9, 1.2])
        ours.observe(dict(zip(names(3), after, strict=True)))
        theirs.update(torch.from_numpy(after))
