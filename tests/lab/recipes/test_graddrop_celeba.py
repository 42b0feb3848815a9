"""Forty losses: rows that differ as the paper's table says, errors with known answers, a batch by heart."""

import numpy as np
import pytest
import torch

from manyloss.lab.arms import ArmContext, choose_arm
from manyloss.lab.checks import DataError
from manyloss.lab.datasets import mtfl
from manyloss.lab.recipes.graddrop_celeba import (
    F1,
    NAMES,
    ROWS,
    Attributes,
    attributes_of,
    one_against_the_rest,
)
from manyloss.lab.training import PASSED, Training
from tests.lab.datasets.test_graddrop_sets import write_celeba


def training(text, problem=None, epochs=1):
    problem = problem or Attributes("made", width=2, train=64, batch_size=16)
    arm = choose_arm(text, problem)
    arm.apply(problem)
    problem.epochs = epochs
    return Training(problem, arm, 0, lambda model: ArmContext(problem.loss_names, 0, model=model))


def test_rows_are_the_papers():
    mgda = training("mgda:optimizer.lr_factor=0.01")
    assert (mgda.lr_factor, mgda.optimizer.param_groups[0]["lr"]) == (0.01, 1e-3)
    assert training("clipping").problem.clip_gradients == 1.0
    both = training("gradnorm-graddrop").trainer.multi
    assert (both.weighting.name, both.aggregator.name) == ("gradnorm", "graddrop")
    assert training("graddrop:sum_over_batch=False").trainer.multi.aggregator.sum_over_batch is False
    assert len(ROWS) == 10


def test_error_and_f1_with_known_answers():
    problem = Attributes("digits")
    problem.losses = {"a": None, "b": None}
    from torchmetrics.classification import MultilabelF1Score, MultilabelHammingDistance

    metrics = {"attributes/error": MultilabelHammingDistance(2), F1: MultilabelF1Score(2, average="macro")}
    outputs = {"a": torch.tensor([9.0, 9, -9, -9]), "b": torch.tensor([-9.0, -9, -9, 9])}
    targets = {"a": torch.tensor([1.0, 0, 0, 0]), "b": torch.tensor([1.0, 0, 0, 1])}
    problem.update_metrics(metrics, outputs, targets)
    assert float(metrics["attributes/error"].compute()) == pytest.approx(2 / 8)
    assert float(metrics[F1].compute()) == pytest.approx(2 / 3)  # each: one right, one too many or too few
    assert problem.score({F1: 0.3, "attributes/error": 0.1}, {}) == 0.3


def test_celeba_is_trained_in_its_own_parts(tmp_path):
    write_celeba(tmp_path)
    problem = Attributes("celeba", str(tmp_path), width=2, batch_size=2)
    assert problem.loss_names == ("Bald", "Smiling", "Young")
    assert not problem.has_papers_data()
    made = training("graddrop", problem)
    (record,) = made.epochs()
    assert set(record["train"]) == {"Bald", "Smiling", "Young"}
    images, targets = made.splits.test.batch(torch.tensor([1, 0]), None)
    assert images.shape == (2, 3, 64, 64)
    assert -1 <= float(images.min()) < float(images.max()) <= 1
    assert targets["Bald"].tolist() == [1.0, 0.0]
    with pytest.raises(
        DataError, match=r"graddrop-celeba has no data 'faces'\. Choose --data celeba or cifar10"
    ):
        Attributes("faces")


def test_what_graddrop_passes_is_recorded_for_every_row():
    for text in ("equal", "graddrop"):
        made = training(text, epochs=2)
        along = [record["along"][PASSED] for record in made.epochs()]
        passed = made.result()["passed"]
        assert along == [passed["first epoch"], passed["last epoch"]]
        assert passed["change"] == pytest.approx(passed["last epoch"] - passed["first epoch"])
        assert all(0.5 <= passed[name] <= 1 for name in ("first epoch", "last epoch"))


def test_one_against_the_rest():
    np.testing.assert_array_equal(one_against_the_rest(np.array([2, 0]), 3), [[0, 0, 1], [1, 0, 0]])


def test_mtfls_faces_have_eight_attributes():
    faces = mtfl.made(20, 4).train
    images, attributes = attributes_of(faces)
    assert images.shape == (20, 1, 40, 40)
    assert attributes.shape == (20, len(NAMES["mtfl"]))
    np.testing.assert_array_equal(attributes[:, 0], faces.attributes[:, 0] == 2)
    assert (attributes[:, 3:].argmax(1) + 1 == faces.attributes[:, 3]).all()
    assert (attributes[:, 3:].sum(1) == 1).all()


def test_one_batch_is_learned_by_heart():
    problem = Attributes("digits", width=4, train=20)
    inputs, targets = problem.datasets(0).train.batch(torch.arange(8), None)
    made = training("graddrop", problem)
    made.record_every = 100
    made.optimizer.param_groups[0]["lr"] = 0.01
    for step in range(60):
        made.step(step, inputs, targets)
    with torch.no_grad():
        _, outputs = made.model(inputs)
    losses = problem.compute_losses(outputs, targets)
    assert sum(float(loss) for loss in losses.values()) / 10 < 0.1
