"""Per-loss gradients kept as lists: every way to use them against one float64 matrix [T, P]."""

import math
import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from manyloss import rows as rows_module
from manyloss.rows import Rows

T = 3
SHAPES = ((4, 3, 2, 2), (7,), (), (5, 2))

Gradients = list[list[Tensor | None]]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that end in the middle of a parameter, and some that hold several."""
    monkeypatch.setattr(rows_module, "MULTIPLIED", 17 * T)
    monkeypatch.setattr(rows_module, "MERGED", 11 * T)


def made(make: Callable[[tuple[int, ...]], Tensor], shapes: Sequence[tuple[int, ...]] = SHAPES) -> Gradients:
    torch.manual_seed(0)
    return [[make(shape) for shape in shapes] for _ in range(T)]


def double(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def channels_last(shape: tuple[int, ...]) -> Tensor:
    tensor = double(shape)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def strided_differently(shape: tuple[int, ...]) -> Tensor:
    """Column by column in memory, for some of the losses."""
    tensor = double(shape)
    return tensor.mT.contiguous().mT if len(shape) > 1 and torch.rand(()) < 0.5 else tensor


def expanded(shape: tuple[int, ...]) -> Tensor:
    return torch.randn((), dtype=torch.float64).expand(shape)


def complex_numbers(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128).conj()


def some_sparse(shape: tuple[int, ...]) -> Tensor:
    if len(shape) < 2:
        return double(shape)
    indices = torch.randint(shape[0], (1, 3))  # repeated ones are not coalesced
    return torch.sparse_coo_tensor(
        indices, torch.randn(3, *shape[1:], dtype=torch.float64), shape, check_invariants=True
    )


def sparse_or_dense(shape: tuple[int, ...]) -> Tensor:
    return some_sparse(shape) if torch.rand(()) < 0.5 else double(shape)


KINDS = {
    kind.__name__: kind
    for kind in (
        double,
        channels_last,
        strided_differently,
        expanded,
        complex_numbers,
        some_sparse,
        sparse_or_dense,
    )
}


def with_gaps(gradients: Gradients) -> Gradients:
    """The second loss misses two parameters, and no loss reaches the third."""
    gradients[1][0] = gradients[1][3] = None
    for row in gradients:
        row[2] = None
    return gradients


def rows_of(gradients: Gradients) -> Rows:
    rows = Rows([torch.zeros(())] * len(gradients[0]))
    for row in gradients:
        rows.add(row)
    return rows


def flat(tensor: Tensor) -> Tensor:
    dense = tensor.to_dense() if tensor.is_sparse else tensor
    return (torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense).double().flatten()


def dense_columns(gradients: Gradients) -> list[Tensor]:
    """Per parameter [T, n], zeros for None."""
    columns = []
    for k in range(len(gradients[0])):
        known = next((flat(row[k]) for row in gradients if row[k] is not None), torch.zeros(0))
        columns.append(
            torch.stack([torch.zeros_like(known) if row[k] is None else flat(row[k]) for row in gradients])
        )
    return columns


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gramian_is_that_of_the_matrix(kind: str, gaps: bool) -> None:
    gradients = made(KINDS[kind])
    gradients = with_gaps(gradients) if gaps else gradients
    matrix = torch.cat(dense_columns(gradients), dim=1)
    torch.testing.assert_close(rows_of(gradients).gramian(), matrix @ matrix.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [[0.5, -2.0, 3.0], [1e-40, 2e-40, 3e-40], [0.0, 0.0, 1.0]])
def test_the_weighted_sum_is_that_of_the_matrix(kind: str, gaps: bool, weights: list[float]) -> None:
    gradients = made(KINDS[kind])
    gradients = with_gaps(gradients) if gaps else gradients
    w = torch.tensor(weights, dtype=torch.float64)
    merged = rows_of(gradients).combine(w)
    for tensor, like, column in zip(merged, gradients[0], dense_columns(gradients), strict=True):
        if like is None:
            assert tensor is None
        else:
            assert tensor is not None
            assert tensor.shape == like.shape
            assert tensor.dtype == like.dtype
            torch.testing.assert_close(
                flat(tensor), w @ column, rtol=1e-12, atol=0.0 if w.sum() < 1 else 1e-12
            )


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_once", [False, True])
def test_a_function_of_columns_is_that_of_the_matrix(kind: str, gaps: bool, at_once: bool) -> None:
    def function(block: Tensor) -> Tensor:
        assert block.shape[0] == T
        sizes.append(block.shape[1])
        return torch.where(block.sum(0) > 0, block.amax(0), block.amin(0))

    sizes: list[int] = []
    gradients = made(KINDS[kind])
    gradients = with_gaps(gradients) if gaps else gradients
    expected = [function(column) for column in dense_columns(gradients) if column.numel()]
    sizes.clear()
    merged = rows_of(gradients).merge(function, at_once=at_once)
    assert len(sizes) == 1 if at_once else max(sizes) <= 11
    assert [tensor is None for tensor in merged] == [gaps and k == 2 for k in range(4)]
    for tensor, like, values in zip(
        [t for t in merged if t is not None],
        [g for g in gradients[0] if g is not None],
        expected,
        strict=True,
    ):
        assert tensor.shape == like.shape
        assert tensor.dtype == like.dtype
        torch.testing.assert_close(flat(tensor), values, rtol=1e-12, atol=0.0)


def test_random_numbers_are_drawn_as_for_the_matrix() -> None:
    def drawn(block: Tensor) -> Tensor:
        return torch.rand(block.shape[1], generator=generator, dtype=block.dtype)

    generator = torch.Generator().manual_seed(5)
    gradients = made(double)
    merged = rows_of(gradients).merge(drawn)
    found = torch.cat([tensor.flatten() for tensor in merged if tensor is not None])
    generator.manual_seed(5)
    assert torch.equal(found, drawn(torch.cat(dense_columns(gradients), 1)))


def test_what_autograd_gave_is_not_written_into() -> None:
    gradients = made(double)
    before = [[g.clone() for g in row if g is not None] for row in gradients]
    shared = [[row[0]] * 3 for row in gradients]  # one tensor for three parameters, as a + b has it
    rows_of(shared).combine(torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64))
    rows_of(gradients).merge(lambda block: block.mul_(2.0).sum(0))
    for row, old in zip(gradients, before, strict=True):
        assert all(torch.equal(gradient, kept) for gradient, kept in zip(row, old, strict=True))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("spread", [0, 20])
def test_float32_gradients_of_any_size_have_an_exact_gramian(scale: float, spread: int) -> None:
    torch.manual_seed(0)
    factors = torch.logspace(-spread, 0, T, dtype=torch.float64).tolist()
    gradients: Gradients = [[(torch.randn(s) * factor * scale) for s in SHAPES] for factor in factors]
    matrix = torch.cat(dense_columns(gradients), dim=1)
    torch.testing.assert_close(rows_of(gradients).gramian(), matrix @ matrix.T, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    gradients: Gradients = [[torch.tensor([value], dtype=dtype)] for value in (6e4, 6e4, -6e4)]
    (total,) = rows_of(gradients).combine(torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64))
    assert total is not None
    assert total.dtype == dtype
    assert float(total) == float(gradients[0][0])  # 2 x 6e4 alone is infinite in float16
    (merged,) = rows_of(gradients).merge(lambda block: block.sum(0))
    assert merged is not None
    assert float(merged) == float(total)


def test_weights_beyond_float32_meet_gradients_below_it() -> None:
    gradients: Gradients = [[torch.tensor([1e-39])], [torch.tensor([1.0])], [None]]
    weights = torch.tensor([1e39, -1.0, 1e300], dtype=torch.float64)
    (total,) = rows_of(gradients).combine(weights)
    assert total is not None
    assert total.dtype == torch.float32
    assert float(total) == pytest.approx(float(gradients[0][0].double()) * 1e39 - 1.0, abs=1e-6)


def test_it_tells_which_loss_is_not_finite() -> None:
    gradients = made(double)
    gradients[1][3][4, 1] = math.nan
    gradients[2] = [None] * 4
    assert rows_of(gradients).finite() == [True, False, True]


def test_each_gradient_is_let_go_once_it_is_merged() -> None:
    def alive() -> int:  # nothing waits for the garbage collector
        return sum(reference() is not None for row in references for reference in row)

    def watched(block: Tensor) -> Tensor:
        seen.append(alive())
        return block.sum(0)

    for use in ("combine", "merge"):
        gradients = made(double, [(40,)] * 5)
        references = [[weakref.ref(g) for g in row] for row in gradients]
        rows = rows_of(gradients)
        del gradients
        seen: list[int] = []
        if use == "merge":
            rows.merge(watched)
            assert seen[-1] <= 2 * T  # the last, and the one before it in the same block
        else:
            rows.combine(torch.ones(T, dtype=torch.float64))
        assert alive() == 0
        assert rows.count == 0


def test_a_model_with_a_sparse_embedding_and_a_spectral_weight() -> None:
    """The real thing: rows from autograd, the merged gradient equal to that of the weighted loss."""
    torch.manual_seed(0)
    embedding = nn.Embedding(50, 4, sparse=True, dtype=torch.float64)
    spectral = nn.Parameter(torch.randn(4, dtype=torch.complex128))
    unused = nn.Parameter(torch.zeros(3))
    params = [embedding.weight, spectral, unused]

    def losses() -> list[Tensor]:
        words = torch.tensor([[1, 7, 7], [3, 1, 20]])
        features = torch.fft.fft(embedding(words).sum(1)) * spectral
        return [features.abs().sum(), features.real.square().sum(), embedding(words).sum()]

    rows = Rows(params)
    for loss in losses():
        rows.add(torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True))
    w = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)
    merged = rows.combine(w)
    sum(weight * loss for weight, loss in zip(w.tolist(), losses(), strict=True)).backward()
    assert merged[0].is_sparse
    assert merged[2] is None
    for param, tensor in zip(params[:2], merged, strict=False):
        torch.testing.assert_close(flat(tensor), flat(param.grad), rtol=1e-12, atol=1e-14)


def test_no_rows_at_all() -> None:
    rows = Rows([torch.zeros(2)])
    assert rows.gramian().shape == (0, 0)
    assert rows.finite() == []
    assert rows.combine(torch.zeros(0)) == [None]
    assert rows.merge(lambda block: block.sum(0)) == [None]
