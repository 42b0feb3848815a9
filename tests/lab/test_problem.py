# ruff: noqa: RUF012
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics import MeanSquaredError, Metric
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy

from manyloss.lab import EncoderWithHeads, LabError, Problem, TensorSplit
from manyloss.lab.problem import BatchedSplit, readable_name


class Two(Problem):
    name = "two"
    losses = {"a": F.mse_loss, "b": F.mse_loss}
    metrics = {"a": lambda: MulticlassAccuracy(3), "b/error": MeanSquaredError}

    def encoder(self):
        return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), nn.BatchNorm1d(2), nn.ReLU())

    def heads(self):
        return {"a": nn.Linear(2, 1), "b": nn.Linear(2, 1)}


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda p: p.datasets(0), "datasets(seed)"),
        (lambda p: p.encoder(), "encoder()"),
        (lambda p: p.heads(), "heads()"),
    ],
)
def test_what_must_be_written_is_named(call, what):
    with pytest.raises(LabError, match="Problem has no") as error:
        call(Problem())
    assert what in str(error.value)
    assert "Return" in str(error.value)


def test_targets_of_another_length_are_refused():
    with pytest.raises(ValueError, match="task 'a' have 3 rows, the inputs have 4"):
        TensorSplit(torch.zeros(4, 2), {"a": torch.zeros(3)})


def test_a_tensor_split_makes_batches_like_its_items():
    split = TensorSplit(torch.arange(8.0).view(4, 2), {"a": torch.arange(4)})
    assert isinstance(split, BatchedSplit)
    inputs, targets = split.batch(torch.tensor([2, 0]), None)
    assert torch.equal(inputs, torch.stack([split[2][0], split[0][0]]))
    assert targets["a"].tolist() == [2, 0]


def test_augmentation_happens_in_training_only():
    split = TensorSplit(
        torch.zeros(4, 2), {}, augment=lambda x, generator: x + torch.rand(x.shape, generator=generator)
    )
    rows = torch.arange(4)
    assert split.batch(rows, None)[0].sum() == 0
    first = split.batch(rows, torch.Generator().manual_seed(1))[0]
    assert first.sum() > 0
    assert torch.equal(first, split.batch(rows, torch.Generator().manual_seed(1))[0])


def test_only_selected_heads_run():
    model = EncoderWithHeads(nn.Linear(4, 3), {"a": nn.Linear(3, 1), "b.c": nn.Linear(3, 1)})
    assert list(model(torch.zeros(2, 4))[1]) == ["a", "b.c"]
    model.selected = ("b.c",)
    assert list(model(torch.zeros(2, 4))[1]) == ["b.c"]


def test_shared_params_are_the_last_layer_with_a_matrix():
    problem = Two()
    model = problem.model()
    assert [tuple(p.shape) for p in problem.shared_params(model)] == [(2, 3), (2,)]
    assert problem.shared_params(nn.Linear(2, 2)) is None


def test_metrics_have_full_names_and_directions():
    directions = Two().metric_directions()
    assert directions == {
        "a/accuracy": {"task": "a", "higher_is_better": True, "derived": False},
        "b/error": {"task": "b", "higher_is_better": False, "derived": False},
    }


def test_a_metric_without_direction_is_an_error():
    class Odd(Metric):
        def update(self):
            pass

        def compute(self):
            return torch.zeros(())

    problem = Two()
    problem.metrics = {"a": Odd}
    with pytest.raises(LabError, match=r"two: metric 'a/odd' .* does not say whether higher is better"):
        problem.metric_directions()


def test_fewer_losses_have_fewer_metrics():
    problem = Two()
    problem.selected = ("b",)
    assert list(problem.make_metrics()) == ["b/error"]
    assert problem.active_names == ("b",)


def test_a_missing_target_is_a_missing_loss():
    outputs = {"a": torch.zeros(2, 1), "b": torch.zeros(2, 1)}
    losses = Two().compute_losses(outputs, {"a": torch.ones(2, 1), "b": None})
    assert losses["a"] == 1
    assert losses["b"] is None


def test_the_score_is_signed_and_free_of_units():
    problem = Two()
    first = {"a/accuracy": 0.5, "b/error": 40.0}
    # accuracy counts as it is, the error relative to the first epoch: (0.8 - 20 / 40) / 2
    assert problem.score({"a/accuracy": 0.8, "b/error": 20.0}, first) == pytest.approx(0.15)
    assert math.isnan(problem.score({"a/accuracy": 0.8, "b/error": math.nan}, first))
    assert math.isfinite(problem.score({"a/accuracy": 0.8, "b/error": 1.0}, {"a/accuracy": 0, "b/error": 0}))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MulticlassAccuracy", "accuracy"),
        ("MeanSquaredError", "mean squared error"),
        (BinaryF1Score.__name__, "F1 score"),
        ("R2Score", "R2 score"),
        ("BinaryAUROC", "AUROC"),
    ],
)
def test_metric_names_are_words(name, words):
    assert readable_name(name).lower() == words.lower()
