"""What the words say is what the figures are."""

import numpy as np
import pytest
import torch
from torch import nn

from manyloss import MultiLoss
from manyloss.diagnostics import ConflictRecorder, diagnose
from manyloss.diagnostics.summary import half_interval
from manyloss.weighting import GradNorm


def record(number: int, cosine: float, *, norms=(1.0, 1.0), layers=None, names=("a", "b"), passed=0.8):
    """Two losses whose gradients have this cosine."""
    first, second = norms
    total = np.sqrt(first**2 + second**2 + 2 * cosine * first * second)
    relations = {
        "norms": dict(zip(names, norms, strict=True)),
        "norm_shares": {n: v / sum(norms) for n, v in zip(names, norms, strict=True)},
        "cosines": {"|".join(names): cosine},
        "negative_share": float(cosine < 0),
        "with_sum": {
            names[0]: (first + cosine * second) / total, names[1]: (second + cosine * first) / total,
        },
    }  # fmt: skip
    return {
        "step": number,
        "losses": dict.fromkeys(names, 1.0),
        **relations,
        "sigma": {},
        "purity": {"histogram": [0.1] * 10, "mixed": 0.4, "passed": passed},
        "layers": {name: record(number, value) for name, value in (layers or {}).items()},
    }


def noisy(mean: float, spread: float, count: int = 60, **keywords):
    values = np.clip(np.random.default_rng(0).normal(mean, spread, count), -1, 1)
    return [record(i, float(value), **keywords) for i, value in enumerate(values)]


def test_strong_conflict() -> None:
    found = diagnose(noisy(-0.5, 0.1))
    assert found.verdict == "strong"
    assert found.answer == "Yes: the losses conflict strongly."
    assert "'a' against 'b': mean cosine -0.49 (95 % interval -0.53 to -0.46)" in str(found)
    assert "negative in 100% of 60 records" in str(found)
    assert found.advice.startswith("It is worth trying methods that merge gradients (pcgrad, mgda")
    assert "only a comparison over seeds (manyloss compare) decides" in found.advice


def test_mild_conflict() -> None:
    found = diagnose(noisy(-0.1, 0.05))
    assert found.verdict == "mild"
    assert found.advice.startswith("Expect little from")


def test_noise_around_zero_is_no_conflict_although_half_is_negative() -> None:
    found = diagnose(noisy(0.0, 0.3))
    assert found.verdict == "none"
    assert 0.3 < found.pairs[0].negative < 0.7
    assert found.answer == "No: the losses do not conflict beyond noise."
    assert "The least aligned pair is 'a' against 'b': mean cosine" in str(found)
    assert found.advice.startswith("Nothing here calls for more than the plain sum.")


def test_agreement_is_no_conflict() -> None:
    found = diagnose(noisy(0.6, 0.1))
    assert found.verdict == "none"
    assert "In no record does the plain sum of the gradients point against a loss." in found.sentences


def test_a_small_loss_that_is_overruled_makes_mild_cosines_strong() -> None:
    found = diagnose(noisy(-0.15, 0.02, norms=(20.0, 1.0)))
    assert found.verdict == "strong"
    assert "points against 'b' in 100% of the records: a step along it would raise that loss." in str(found)
    assert found.uneven
    assert "and weightings that even out norms" in found.advice


def test_uneven_norms_alone() -> None:
    found = diagnose(noisy(0.3, 0.1, norms=(30.0, 1.0)))
    assert found.verdict == "none"
    assert "'a' has 97% of their sum, 30.0 times as much as 'b' (3%)" in str(found)
    assert found.advice.startswith("Conflict is no reason to do anything; uneven norms may be")


def test_too_few_records_say_nothing() -> None:
    found = diagnose(noisy(-0.9, 0.01, count=9))
    assert found.verdict == "unclear"
    assert found.answer.startswith("9 records are too few to tell (at least 10)")


def test_where() -> None:
    records = noisy(-0.4, 0.1, layers={"first": 0.3, "last": -0.6})
    found = diagnose(records)
    assert (
        "the mean cosine is lowest at 'last' (-0.60, 100% negative) and highest at 'first' (+0.30, 0%)"
        in str(found)
    )
    assert found.layers["last"][0].mean == pytest.approx(-0.6)


def test_when() -> None:
    records = [record(i, 0.2 if i < 20 else -0.6) for i in range(60)]
    found = diagnose(records)
    assert (
        "Conflict grows: 0% of these pairs' cosines are negative in the first third, 100% in the last."
        in (found.sentences)
    )


def test_a_few_of_many_pairs_are_chance() -> None:
    records = noisy(-0.3, 0.05)
    for one in records:
        one["cosines"] |= {f"c{i}|d": 0.1 for i in range(60)}
    assert diagnose(records).verdict == "none"
    for one in records:
        one["cosines"] |= {f"c{i}|d": -0.1 for i in range(5)}
    assert diagnose(records).answer == "Yes: the losses conflict strongly, in 6 of 61 pairs."


def with_weights(records, shares, norms, numbers="weights"):
    """Loss "a" has these shares of the weight and these norms."""
    for one, share, norm in zip(records, shares, norms, strict=True):
        one["weights"] = {"a": 2 * share, "b": 2 * (1 - share)}
        one["norms"] = {"a": norm, "b": 1.0}
        one["numbers"] = numbers
    return records


def test_a_loss_that_is_learned_by_heart_takes_all_weight() -> None:
    shares, norms = [0.5] * 20 + [0.7] * 20 + [0.95] * 20, [1.0] * 20 + [0.1] * 20 + [0.02] * 20
    records = with_weights(noisy(0.1, 0.1), shares, norms)
    assert (
        "'a' seems learned by heart: from the first third to the last its gradient shrinks to 0.02 of what "
        "it was, and its share of the weights grows from 50% to 95%." in str(diagnose(records))
    )


@pytest.mark.parametrize(
    ("share", "norm", "numbers"),
    [
        (0.95, 1.0, "weights"),  # a loss of a small scale needs much weight
        (0.7, 0.02, "weights"),
        (0.95, 0.02, "projection coefficients"),
    ],
)
def test_much_weight_alone_is_no_finding(share, norm, numbers) -> None:
    records = with_weights(noisy(0.1, 0.1), [0.5] * 40 + [share] * 20, [1.0] * 40 + [norm] * 20, numbers)
    assert "by heart" not in str(diagnose(records))


def test_a_loss_that_comes_late_was_not_learned_by_heart() -> None:
    records = with_weights(noisy(0.1, 0.1), [0.95] * 60, [0.02] * 60)
    for one in records[:20]:
        one["weights"], one["norms"] = {"b": 1.0}, {"b": 1.0}
    assert "by heart" not in str(diagnose(records))


@pytest.mark.filterwarnings("ignore:.*less than 1 %")
def test_gradnorm_and_a_loss_that_is_learned_by_heart() -> None:
    """As on the faces of MTFL; the way out that is named gives the others their weight back."""
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    trunk, heads = nn.Linear(8, 16), nn.ModuleDict({name: nn.Linear(16, 1) for name in ("known", "a", "b")})
    optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=0.01)

    def step(multi, names):
        optimizer.zero_grad()
        z = trunk(x)
        targets = {"known": x[:, :1], "a": torch.randn(64, 1), "b": torch.randn(64, 1)}
        losses = {name: (heads[name](z) - targets[name]).square().mean() for name in names}
        result = multi.backward(losses, features=z, shared_params=trunk.parameters())
        optimizer.step()
        return result.weights

    multi = MultiLoss(GradNorm(alpha=0.0, lr=0.05))
    with ConflictRecorder(multi, every=5) as recorder:
        for _ in range(600):
            weights = step(multi, heads)
    assert "'known' seems learned by heart" in str(recorder.diagnose())
    assert weights["known"] > 2.4
    others = MultiLoss(GradNorm(alpha=0.0, lr=0.05))
    for _ in range(100):
        weights = step(others, ("a", "b"))
    assert all(weight > 0.5 for weight in weights.values())


def test_purity_is_said() -> None:
    assert "disagree at 40% of the positions, and GradDrop would pass 80% of the gradient" in str(
        diagnose(noisy(0.1, 0.1))
    )


def test_one_loss_and_no_records() -> None:
    one = {"losses": {"a": 1.0}}
    assert diagnose([one]).answer == "There is one loss, 'a': nothing can conflict."
    with pytest.raises(ValueError, match="no records to diagnose"):
        diagnose([])


def test_the_interval_is_students_over_blocks() -> None:
    values = [float(i % 10) for i in range(100)]  # ten blocks of equal means
    assert half_interval(values) == pytest.approx(0.0)
    values = np.random.default_rng(1).normal(size=20)
    blocks = values.reshape(10, 2).mean(1)
    assert half_interval(list(values)) == pytest.approx(2.262 * blocks.std(ddof=1) / np.sqrt(10))
    assert half_interval([1.0] * 9) == float("inf")
