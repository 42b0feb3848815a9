"""Each rule for many scalars at once against the library's own method on one scalar at a time."""

from collections import Counter

import pytest
import torch

from manyloss import MultiLoss
from manyloss.aggregation import GradDrop
from manyloss.gradients import LossGradients
from manyloss.lab.recipes import recipe_named
from manyloss.lab.recipes.graddrop_sines import (
    NAMES,
    RULES,
    SINES,
    OneWeight,
    Sines,
    graddrop,
    iterative_pcgrad,
    mgda,
    pcgrad,
    sgd,
)
from manyloss.weighting import MGDA, GradNorm, IterativePCGrad, PCGrad

RUNS = 40


@pytest.fixture
def gradients():
    """[5, 40] with every mixture of signs: some runs agree, some conflict, some hold zeros."""
    drawn = torch.randn(5, RUNS, dtype=torch.float64)
    drawn[:, :5] = drawn[:, :5].abs()
    drawn[:, 5:10] = -drawn[:, 5:10].abs()
    drawn[2, 10:15] = 0.0
    drawn[:, 15] = 0.0
    return drawn


def one_scalar(weighting, column):
    """What the library's gradient weighting makes of T scalars."""
    gradients = LossGradients.of(column[:, None, None])  # [T, B=1, F=1]
    return float((weighting(gradients) * column).sum())


def test_sgd_is_the_sum(gradients):
    assert torch.equal(sgd(gradients), gradients.sum(0))


@pytest.mark.parametrize(("rule", "method"), [(mgda, MGDA), (pcgrad, PCGrad)])
def test_the_rule_is_the_librarys_method_on_each_scalar(gradients, rule, method):
    expected = [one_scalar(method(), column) for column in gradients.T]
    torch.testing.assert_close(rule(gradients), torch.tensor(expected).double(), atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("k", [0.0, 1.0])
def test_graddrop_with_the_same_draw_is_the_librarys(gradients, k):
    for seed, column in enumerate(gradients.T):
        torch.manual_seed(seed)
        ours = graddrop(column[:, None], k)
        theirs = GradDrop(k=k, seed=seed)(column[:, None], None)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("column", [[1.0, -2.0, 3.0, -0.5, 0.25], [1.0, -1.0, 0.0, 2.0, 2.0]])
def test_iterative_pcgrad_ends_as_the_librarys_does_and_as_often(column):
    draws = 2000
    column = torch.tensor(column, dtype=torch.float64)
    method = IterativePCGrad(seed=0)
    theirs = Counter(round(one_scalar(method, column), 9) for _ in range(draws))
    ours = Counter(round(v, 9) for v in iterative_pcgrad(column[:, None].expand(-1, draws)).tolist())
    assert set(ours) == set(theirs)
    for outcome in theirs:
        assert abs(ours[outcome] - theirs[outcome]) < 5 * (2 * draws * 0.25) ** 0.5


def test_graddrop_keeps_a_sign_as_often_as_its_purity(gradients):
    draws = 20_000
    column = torch.tensor([1.0, -3.0], dtype=torch.float64)[:, None].expand(-1, draws)
    kept = (graddrop(column) > 0).double().mean()
    assert abs(float(kept) - 0.25) < 5 * (0.25 * 0.75 / draws) ** 0.5


def test_gradnorm_for_many_runs_is_the_librarys_run_by_run():
    runs, steps = 3, 60
    model = OneWeight(runs)
    starts = model.w.detach().clone()
    many = []
    for _ in range(steps):
        values, gradients = model.values_and_gradients()
        with torch.no_grad():
            model.w -= 0.05 * model.gradnorm.merge(gradients, values)
        many.append(model.w.detach().clone())

    for run in range(runs):
        w = torch.nn.Parameter(starts[run : run + 1].clone())
        multi = MultiLoss(GradNorm(alpha=1.5, lr=0.025))
        for step in range(steps):
            losses = {
                name: (torch.sin(a * w + b) + 1).sum() for name, (a, b) in zip(NAMES, SINES, strict=True)
            }
            w.grad = None
            multi.backward(losses, shared_params=[w])
            with torch.no_grad():
                w -= 0.05 * w.grad
            torch.testing.assert_close(w[0], many[step][run], atol=1e-8, rtol=1e-8)


def test_the_known_derivative_is_autograds():
    model = OneWeight(7)
    values, gradients = model.values_and_gradients()
    w, outputs = model(None)
    for i, name in enumerate(NAMES):
        torch.testing.assert_close(outputs[name], values[i])
        (expected,) = torch.autograd.grad(outputs[name].sum(), w, retain_graph=True)
        torch.testing.assert_close(gradients[i], expected)


def test_starts_are_spread_over_the_whole_range():
    w = OneWeight(2000).w
    assert w.min() < -9.9
    assert w.max() > 9.9


def test_the_recipe_has_all_seven_methods_and_200_runs():
    recipe = recipe_named("graddrop-sines")
    assert len(recipe.arms) == 7
    assert {*RULES, "gradnorm"} == set(recipe.arms) == set(Sines.arms)
    assert recipe.scales["full"] == {"epochs": 10, "seeds": 5, "runs": 200}
    assert Sines().runs == 200
    assert OneWeight(2000, 3.0).w.detach().abs().max() == pytest.approx(3.0, abs=0.05)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.2)
    schedule = Sines(halved_after=2).schedule(optimizer)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [0.2, 0.2, 0.1, 0.1]


def test_the_learning_rate_halves_every_thousand_steps_and_the_last_epoch_counts():
    problem = Sines()
    assert len(problem.datasets(0).train) == 1000
    model = problem.model()
    optimizer = problem.optimizer([model.w])
    scheduler = problem.schedule(optimizer)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [0.2 / 2**i for i in range(10)]
    assert problem.keep_last
