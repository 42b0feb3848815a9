"""Many runs at once against a MultiLoss on one run at a time."""

import pytest
import torch

from manyloss import MultiLoss
from manyloss.lab.recipes import recipe_named
from manyloss.lab.recipes.graddrop_sines import METHODS, NAMES, SINES, OneByOne, OneWeight, Sines
from manyloss.weighting import MGDA, Equal, GradNorm, PCGrad

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


@pytest.mark.parametrize(
    ("name", "weighting"),
    [("sgd", Equal), ("mgda", MGDA), ("pcgrad", PCGrad), ("gradnorm", lambda: GradNorm(alpha=1.5, lr=0.025))],
)
def test_every_run_goes_where_a_model_with_one_weight_goes(name, weighting):
    runs, steps = 3, 40
    model = OneWeight(runs, name)
    starts = model.w.detach().clone()
    many = []
    for _ in range(steps):
        values, gradients = model.values_and_gradients()
        with torch.no_grad():
            model.w -= 0.05 * model.method.merge(gradients, values)
        many.append(model.w.detach().clone())

    for run in range(runs):
        w = torch.nn.Parameter(starts[run : run + 1].clone())
        multi = MultiLoss(weighting())
        for step in range(steps):
            losses = {
                name: (torch.sin(a * w + b) + 1).sum() for name, (a, b) in zip(NAMES, SINES, strict=True)
            }
            w.grad = None
            multi.backward(losses, shared_params=[w])
            with torch.no_grad():
                w -= 0.05 * w.grad
            torch.testing.assert_close(w[0], many[step][run], atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("name", ["graddrop", "random-graddrop"])
def test_graddrop_keeps_one_sign_in_every_run(gradients, name):
    merged = METHODS[name](RUNS).merge(gradients, torch.ones_like(gradients))
    up, down = gradients.clamp(min=0).sum(0), gradients.clamp(max=0).sum(0)
    apart = torch.stack([merged - up, merged - down]).abs().amin(0)
    torch.testing.assert_close(apart, torch.zeros(RUNS, dtype=torch.float64))
    assert (merged[20:] > 0).any()
    assert (merged[20:] < 0).any()  # the runs draw by themselves


def test_iterative_pcgrad_leaves_one_sign_in_every_run_and_draws_again(gradients):
    method = METHODS["iterative-pcgrad"](RUNS)
    several = torch.stack([method.merge(gradients, torch.ones_like(gradients)) for _ in range(5)])
    sums = torch.stack([gradients.clamp(min=0).sum(0), gradients.clamp(max=0).sum(0)])
    assert (several.abs() <= sums.abs().amax(0) + 1e-12).all()
    assert (several.std(0) > 0).any()


def test_a_run_whose_gradients_cancel_is_left_alone_for_good(gradients):
    asked = []

    class Counting(MGDA):
        def forward(self, gradients):
            asked.append(1)
            return super().forward(gradients)

    runs = OneByOne(Counting(), RUNS)
    first = runs.merge(gradients, torch.ones_like(gradients))
    assert torch.equal(runs.resting, first.abs() < 1e-12)
    moving = int((~runs.resting).sum())
    assert 10 <= moving < RUNS
    asked.clear()
    torch.testing.assert_close(runs.merge(gradients, torch.ones_like(gradients)), first, atol=1e-12, rtol=0)
    assert len(asked) == moving


def test_the_known_derivative_is_autograds():
    model = OneWeight(7, "sgd")
    values, gradients = model.values_and_gradients()
    w, outputs = model(None)
    for i, name in enumerate(NAMES):
        torch.testing.assert_close(outputs[name], values[i])
        (expected,) = torch.autograd.grad(outputs[name].sum(), w, retain_graph=True)
        torch.testing.assert_close(gradients[i], expected)


def test_starts_are_spread_over_the_whole_range():
    w = OneWeight(2000, "sgd").w
    assert w.min() < -9.9
    assert w.max() > 9.9


def test_the_recipe_has_all_seven_methods_and_200_runs():
    recipe = recipe_named("graddrop-sines")
    assert len(recipe.arms) == 7
    assert set(METHODS) == set(recipe.arms) == set(Sines.arms)
    assert recipe.scales["full"] == {"epochs": 10, "seeds": 5, "runs": 200}
    assert Sines().runs == 200
    assert OneWeight(2000, "sgd", 3.0).w.detach().abs().max() == pytest.approx(3.0, abs=0.05)
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
