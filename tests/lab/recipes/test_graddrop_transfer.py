"""Mixed batches: rows of the batch by task, leaks by task, a network for one task, a batch by heart."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from manyloss.lab.arms import ArmContext, choose_arm
from manyloss.lab.checks import DataError
from manyloss.lab.metrics import CrossEntropy
from manyloss.lab.recipes.graddrop_transfer import SWEEP, MixedBatches, Transfer, TwoDomains
from manyloss.lab.training import Training

SMALL = {"data": "digits", "source": "digits", "train": 32, "test": 32, "depth": 10, "growth": 2}


def training(text, epochs=1, **options):
    problem = Transfer(**{**SMALL, **options})
    arm = choose_arm(text, problem)
    arm.apply(problem)
    problem.epochs = epochs
    return Training(problem, arm, 0, lambda model: ArmContext(problem.active_names, 0, model=model))


def test_a_batch_is_half_of_each_in_training_and_the_transfer_set_alone_elsewhere():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 32, 32), np.uint8)
    split = MixedBatches((images, np.arange(5)), (images + 100, np.arange(5) + 10))
    inputs, targets = split.batch(torch.tensor([3, 1]), torch.Generator().manual_seed(0))
    assert (256 * inputs["transfer"][:, 0, 0, 0]).tolist() == targets["transfer"].tolist() == [3, 1]
    assert (256 * inputs["source"][:, 0, 0, 0] - 100 + 10).tolist() == targets["source"].tolist()
    assert set(split.batch(torch.tensor([3]), None)[0]) == {"transfer"}


def test_each_task_reads_its_own_rows():
    model = TwoDomains({"transfer": 4, "source": 7}, 10, 2).eval()
    inputs = {"transfer": torch.rand(2, 3, 32, 32), "source": torch.rand(3, 3, 32, 32)}
    features, outputs = model(inputs)
    assert features.shape == (5, model.encoder.channels)
    assert {task: tuple(logits.shape) for task, logits in outputs.items()} == {
        "transfer": (2, 4),
        "source": (3, 7),
    }
    (found,) = torch.autograd.grad(outputs["source"].sum(), features)
    assert found[:2].abs().sum() == 0
    assert bool((found[2:] != 0).any())


def test_rows_are_the_papers():
    leaks = training("graddrop").trainer.multi.aggregator
    assert (leaks.leak, leaks.k) == ({"transfer": 0.0, "source": 1.0}, 0.25)
    assert training("gradnorm-random-graddrop").trainer.multi.aggregator.k == 0.0
    first = training(SWEEP[0]).trainer.multi
    assert (first.aggregator.leak, first.weighting.name) == ({"transfer": 1.0, "source": 0.0}, "gradnorm")
    alone = training("single:transfer").model
    assert alone.tasks == ("transfer",)
    assert len(alone.encoder.norm.of_domain) == 1
    with pytest.raises(
        DataError, match=r"graddrop-transfer has no source 'cifar'\. Choose --option source=cifar10 or"
    ):
        Transfer(source="cifar")


def test_the_rate_is_constant_and_then_falls_to_the_papers_end():
    made = training("equal")
    made.problem.epochs = 50
    factor = made.scheduler.lr_lambdas[0]
    assert factor(20) == 1.0
    assert factor(35) == pytest.approx(0.94**37.5)  # 75,000 of 150,000 steps


def test_cross_entropy_is_the_mean_over_all_examples():
    logits, labels = torch.randn(7, 5), torch.tensor([0, 1, 2, 3, 4, 0, 1])
    metric = CrossEntropy()
    metric.update(logits[:3], labels[:3])
    metric.update(logits[3:], labels[3:])
    assert float(metric.compute()) == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)


def test_one_batch_is_learned_by_heart():
    made = training("gradnorm-graddrop", growth=6)
    made.record_every = 100
    made.optimizer.param_groups[0]["lr"] = 0.01
    inputs, targets = made.splits.train.batch(torch.arange(8), torch.Generator().manual_seed(0))
    for step in range(60):
        made.step(step, inputs, targets)
    with torch.no_grad():
        _, outputs = made.model(inputs)
    assert all(float(loss) < 0.3 for loss in made.problem.compute_losses(outputs, targets).values())
