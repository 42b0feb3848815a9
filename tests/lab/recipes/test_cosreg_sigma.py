"""Figure 3 of CosReg: rows that change the network and its training, one data set, sigma from every step."""

import torch

from manyloss.lab.arms import ArmContext, choose_arm
from manyloss.lab.recipes.cosreg_sigma import FirstEpoch
from manyloss.lab.training import Training


def training(text, seed=0):
    problem = FirstEpoch(images_per_pair=16)
    arm = choose_arm(text, problem)
    arm.apply(problem)
    problem.epochs = 2
    return Training(problem, arm, seed, lambda model: ArmContext(problem.loss_names, seed, model=model))


def test_a_row_sets_width_batch_rate_and_regularisation():
    made = training("batchnorm-10-32-0.0003")
    assert (made.problem.filters, made.problem.batch_size, made.problem.batchnorm) == (10, 32, True)
    assert made.optimizer.param_groups[0]["lr"] == 3e-4
    assert made.steps_per_epoch == 256 // 32
    assert len(FirstEpoch.arms) == 27


def test_seeds_share_the_images_and_not_the_weights():
    one, other = training("none-20-64-0.001"), training("none-20-64-0.001", seed=1)
    assert torch.equal(one.splits.train.inputs, other.splits.train.inputs)
    weights = [next(made.model.parameters()) for made in (one, other)]
    assert not torch.equal(*weights)


def test_sigma_is_of_every_step_of_the_first_epoch():
    made = training("none-20-64-0.001")
    made.record_every = 10**9
    list(made.epochs())
    ((count,), _, _) = made.state.cosines.first_epoch.tolist()
    assert count == made.steps_per_epoch
