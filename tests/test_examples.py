"""examples/: each is a few marked lines away from plain PyTorch, and trains as that does on equal weights."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parents[1] / "examples"
# What makes each run small; the constants stand at its top.
SMALL = {
    "actor_critic": "STEPS, POLES, LIMIT = 3, 4, 5",
    "burgers": "ADAM, LBFGS, EVERY, INSIDE, EDGE = 5, 4, 4, 30, 6",
    "dense": "STEPS, TRAIN, VALIDATION, SIDE, BATCH = 2, 4, 2, 32, 2",
    "detector": "STEPS, TRAIN, VALIDATION, BATCH = 2, 4, 2, 2",
    "gpt": "STEPS, BATCH, LENGTH = 2, 2, 8",
    "per_class": "STEPS = 3",
    "recommender": "STEPS = 3",
    "vae": "STEPS = 3",
}


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


before = load("before")


def source(name, constants=None, method=None):
    """The text of an example, its constants and its method exchanged."""
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    text, found = re.subn(
        r"^((?:STEPS|ADAM)\b.*)$", rf"\1\n{constants or SMALL[name]}", text, count=1, flags=re.MULTILINE
    )
    assert found
    return text if method is None else re.sub(r'lab\.method\("[^"]*"', f'lab.method("{method}"', text)


def run(text):
    namespace = {"__name__": "example"}
    exec(compile(text, "example", "exec"), namespace)
    return namespace


def parameters(namespace):
    modules = [item for item in namespace.values() if isinstance(item, nn.Module)]
    return list(dict.fromkeys(p for module in modules for p in module.parameters()))


def test_every_example_with_marks_is_here():
    marked = {path.stem for path in FOLDER.glob("*.py") if "  # was: " in path.read_text(encoding="utf-8")}
    assert marked - {"before"} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_few_lines_differ_from_plain_pytorch(name):
    text = source(name)
    plain = before.plain(text)
    body = plain[plain.index('"""\n', 3) :]
    assert not re.search(r"\bmulti\b|\blab\.(?!datasets|models)|import lab|FeaturesOf|# new", body)
    added = [line for line in before.changes(text).splitlines() if line.startswith("+")]
    assert len(added) <= 8
    assert len(text.splitlines()) <= 130


@pytest.mark.parametrize("name", SMALL)
def test_with_equal_weights_it_trains_as_before(name, capsys):
    wanted = parameters(run(before.plain(source(name))))
    plain = capsys.readouterr().out
    found = parameters(run(source(name, method="equal")))
    assert capsys.readouterr().out == plain
    assert len(plain.splitlines()) == 1
    assert wanted
    for parameter, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_its_method_trains_otherwise(name):
    wanted = parameters(run(before.plain(source(name))))
    namespace = run(source(name, method="pcgrad" if name == "gpt" else None))
    assert all(parameter.isfinite().all() for parameter in parameters(namespace))
    if name != "vae":  # no conflict in its first steps
        assert any(not torch.equal(p, q) for p, q in zip(parameters(namespace), wanted, strict=True))


def test_a_with_block_moves_out():
    text = "a = 1\nwith b():  # new\n    c = 2  # was: c = 3\n    # was: d = 4\n\ne = 5  # new\nf = 6\n"
    assert before.plain(text) == "a = 1\nc = 3\nd = 4\n\nf = 6\n"
    assert before.unmarked(text) == "a = 1\nwith b():\n    c = 2\n\ne = 5\nf = 6\n"


def test_the_exact_solution_solves_the_equation():
    burgers = run(source("burgers"))
    exact, nu = burgers["exact"], burgers["NU"]
    x, t, h = np.linspace(-0.9, 0.9, 7), np.full(7, 0.3), 1e-4
    u = exact(x, t)
    u_t = (exact(x, t + h) - exact(x, t - h)) / (2 * h)
    right, left = exact(x + h, t), exact(x - h, t)
    residual = u_t + u * (right - left) / (2 * h) - nu * (right - 2 * u + left) / h**2
    assert np.abs(residual).max() < 1e-5
    np.testing.assert_allclose(exact(x, 0 * x + 1e-6), -np.sin(np.pi * x), atol=1e-4)


@pytest.mark.slow
def test_lbfgs_learns_the_flow_on_the_weights_that_a_method_set():
    """Held weights are one function for the line search, whoever set them."""
    size = "ADAM, LBFGS, EVERY, INSIDE, EDGE, WIDTH, DEPTH = 100, 200, 200, 150, 30, 10, 2"
    plain = run(before.plain(source("burgers", size)))["problem"].error()
    method = run(source("burgers", size, "relobralo"))["problem"].error()
    assert max(plain, method) < 0.2
