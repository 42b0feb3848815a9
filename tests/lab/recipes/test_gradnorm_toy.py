import pytest
import torch

from manyloss.lab.arms import ArmContext, choose_arm, choose_arms
from manyloss.lab.recipes import recipe_named
from manyloss.lab.recipes._gradnorm_toy import Functions, RelativeLoss, Stream, input_scale
from manyloss.lab.recipes.gradnorm_toy_2 import TwoRegressions
from manyloss.lab.recipes.gradnorm_toy_10 import TenRegressions
from manyloss.lab.training import Training

both = pytest.mark.parametrize(("problem_class", "count"), [(TwoRegressions, 2), (TenRegressions, 10)])


@both
def test_the_papers_numbers(problem_class, count):
    problem = problem_class()
    recipe = recipe_named(problem.name)
    assert recipe.arms == ("equal", "uncertainty", "gradnorm")
    assert recipe.scales["full"]["epochs"] * problem.steps_per_epoch == 20_000
    assert problem.batch_size == 100
    assert len(problem.loss_names) == count
    (arm,) = choose_arms(["gradnorm"], problem)
    assert arm.options["alpha"] == 0.12


def test_scales():
    assert TwoRegressions.sigmas == (1.0, 100.0)
    assert len(TenRegressions.sigmas) == 10
    assert all(sigma > 0 for sigma in TenRegressions.sigmas)
    assert max(TenRegressions.sigmas) / min(TenRegressions.sigmas) > 10


@both
def test_four_shared_layers_and_one_per_task(problem_class, count):
    problem = problem_class()
    model = problem.model()
    features, outputs = model(torch.randn(3, 250))
    assert features.shape == (3, 100)
    assert {tuple(output.shape) for output in outputs.values()} == {(3, 100)}
    shared = 250 * 100 + 3 * 100 * 100 + 4 * 100
    assert sum(p.numel() for p in model.parameters()) == shared + count * (100 * 100 + 100)


def test_w_is_the_fourth_layer():
    problem = TwoRegressions()
    model = problem.model()
    (weight,) = problem.shared_params(model)
    linear = [module for module in model.encoder.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == 4
    assert weight is linear[3].weight


def test_the_functions_are_equation_3():
    functions = Functions({"a": 1.0, "b": 100.0}, torch.Generator().manual_seed(0))
    x = torch.randn(4, 250)
    for (_, targets), sigma, matrix in zip(
        functions(x).items(), (1.0, 100.0), functions.matrices, strict=True
    ):
        torch.testing.assert_close(targets, sigma * torch.tanh(torch.einsum("of,bf->bo", matrix, x)))


def test_the_variances_are_10_shared_and_3_5_own():
    names = {str(i): 1.0 for i in range(40)}
    matrices = Functions(names, torch.Generator().manual_seed(0)).matrices
    assert matrices.mean(0).var() == pytest.approx(10 + 3.5 / 40, rel=0.03)
    assert matrices.var(0).mean() == pytest.approx(3.5, rel=0.02)


@pytest.mark.parametrize(("spread", "power"), [("variance", 0.5), ("deviation", 1.0)])
def test_unsaturated_inputs_are_so_under_both_spreads(spread, power):
    problem = TwoRegressions(inputs="unsaturated", spread=spread)
    assert problem.input_scale == input_scale("unsaturated", power)
    x, targets = problem.datasets(0).test.batch(torch.arange(1000), None)
    assert torch.atanh(targets["task 0"]).var() == pytest.approx(1.0, rel=0.1)
    assert x.std() == pytest.approx(problem.input_scale, rel=0.02)
    assert TwoRegressions(inputs="unit length").input_scale == pytest.approx(250**-0.5)


def test_readings_of_gradnorm_change_its_arm():
    problem = TenRegressions(weights_optimizer="sgd", weights_lr=0.1, start="answer 0")
    (arm,) = choose_arms(["gradnorm"], problem)
    multi = arm.build(ArmContext(problem.loss_names, 0, problem=problem))
    assert multi.weighting.inner.lr == 0.1
    made = multi.weighting.inner.factory([torch.nn.Parameter(torch.ones(1))])
    assert isinstance(made, torch.optim.SGD)
    assert made.defaults["lr"] == 0.1
    # tanh saturates: the loss of the answer 0 is almost sigma^2
    for task, initial in multi.weighting.initial.items():
        assert 0.9 < initial / problem.scales[task] ** 2 < 1.0
        assert initial == float(f"{initial:.6g}")  # the same on every machine
    with pytest.raises(ValueError, match="spread must be one of 'variance', 'deviation'; received 'sd'"):
        TwoRegressions(spread="sd")


def test_training_examples_are_new_in_every_batch_and_decided_by_the_generator():
    stream = Stream(Functions({"a": 1.0}, torch.Generator().manual_seed(0)), 1000)
    generator = torch.Generator().manual_seed(1)
    first, second = (stream.batch(torch.arange(100), generator)[0] for _ in range(2))
    assert not torch.equal(first, second)
    again, _ = stream.batch(torch.arange(100), torch.Generator().manual_seed(1))
    assert torch.equal(again, first)


def test_held_out_examples_are_fixed_and_not_the_same():
    one, other = TwoRegressions().datasets(0), TwoRegressions().datasets(0)
    assert torch.equal(one.test.inputs, other.test.inputs)
    assert not torch.equal(one.test.inputs, one.validation.inputs)
    assert len(one.train) == 20_000
    assert not torch.equal(TwoRegressions().datasets(1).test.inputs, one.test.inputs)


def test_the_ratio_is_1_for_a_network_that_answers_0_and_adds_over_batches():
    metric = RelativeLoss()
    metric.update(torch.zeros(2, 100), torch.full((2, 100), 3.0))
    assert metric.compute() == 1.0
    metric.update(torch.full((2, 100), 3.0), torch.full((2, 100), 3.0))
    assert metric.compute() == 0.5
    assert metric.higher_is_better is False


def test_the_initial_network_starts_near_1():
    problem = TwoRegressions()
    splits, model = problem.datasets(0), problem.model()
    with torch.no_grad():
        _, outputs = model(splits.test.inputs)
    for task, output in outputs.items():
        metric = RelativeLoss()
        metric.update(output, splits.test.targets[task])
        assert float(metric.compute()) == pytest.approx(1.0, abs=0.02)


def test_the_last_epoch_is_tested_beside_the_best():
    problem = TwoRegressions(steps_per_epoch=2)
    problem.epochs = 3
    problem.score = lambda values, first: -training.state.epoch  # the first epoch stays the best
    arm = choose_arm("equal", problem)
    training = Training(problem, arm, 0, lambda model: ArmContext(problem.loss_names, 0, model=model))
    assert len(list(training.epochs())) == 3
    last, _ = training.evaluate(training.splits.test)
    result = training.result()
    assert result["best_epoch"] == 1
    assert result["test"]["sum of loss ratios, last epoch"] == last["sum of loss ratios"]
    assert result["test"]["sum of loss ratios"] != last["sum of loss ratios"]
    about = problem.metric_directions()["sum of loss ratios, last epoch"]
    assert about == {"task": "sum of loss ratios", "higher_is_better": False, "derived": True}


def test_the_score_is_the_sum():
    problem = TwoRegressions()
    values = {"task 0/loss ratio": 0.25, "task 1/loss ratio": 0.5}
    assert set(values) == set(problem.metric_names)
    assert problem.derive(values) == {"sum of loss ratios": 0.75}
