"""The problems of the board, on made files of their layout."""

import csv
import gzip
import io
import math
import struct

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.io import savemat

from manyloss.lab import LabError, board, compare, pack
from manyloss.lab.arms import ArmContext, choose_arm
from manyloss.lab.datasets import molecules
from manyloss.lab.problems import METHODS, OTHERS, SCALE, board_recipes, problems
from manyloss.lab.problems.burgers import NU, Solution, exact, points
from manyloss.lab.problems.school import SCHOOLS
from manyloss.lab.problems.usps_mnist import NO_LABEL
from manyloss.lab.recipes import all_recipes, recipe_named
from manyloss.lab.training import Training

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data folder with a small file of every layout."""
    root = tmp_path_factory.mktemp("data")
    words = ["".join(RNG.choice(list("CNOcn1=()"), 8)) for _ in range(400)]
    _write(root / "tox21.csv.gz", molecules.TOX21, words, lambda: RNG.choice(["0", "1", ""]))
    _write(root / "qm9_499_chemprop.csv", molecules.QM9, words[:60], lambda: f"{RNG.normal():.3f}")
    facts = np.empty((1, SCHOOLS), dtype=object)
    scores = np.empty((1, SCHOOLS), dtype=object)
    for i in range(SCHOOLS):
        facts[0, i] = RNG.normal(size=(4, 28))
        scores[0, i] = RNG.normal(20, 10, size=(4, 1))
    savemat(root / "school.mat", {"X": facts, "Y": scores})
    digits = np.concatenate([RNG.integers(0, 256, (7400, 256)), RNG.integers(1, 11, (7400, 1))], axis=1)
    savemat(root / "usps_all.mat", {"usps_all": digits.astype(np.uint8)})
    for name, shape in (("images-idx3", (2600, 28, 28)), ("labels-idx1", (2600,))):
        values = RNG.integers(0, 10, shape).astype(np.uint8)
        head = b"\0\0\x08" + struct.pack(f">B{len(shape)}I", len(shape), *shape)
        (root / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))
    return root


def _write(path, names, words, draw):
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "smiles"])
        writer.writerows([*(draw() for _ in names), word] for word in words)


def problem_of(name, root):
    options = {"usps-mnist": {"digits": 200}, "burgers": {"places": 256}}.get(name, {})
    recipe = recipe_named(name)
    problem = recipe.problem(**({"data_root": str(root)} if recipe.takes("data_root") else {}), **options)
    problem.epochs = 1
    return problem


@pytest.mark.parametrize("name", board_recipes())
@pytest.mark.parametrize("method", ["mgda", "graddrop"])
def test_a_problem_trains_with_whatever_method(name, method, made):
    problem = problem_of(name, made)
    arm = choose_arm(method, problem)
    training = Training(
        problem, arm, 0, lambda model: ArmContext(problem.loss_names, 0, problem=problem, model=model)
    )
    before = [parameter.clone() for parameter in training.model.parameters()]
    (record,) = training.epochs()
    assert all(math.isfinite(value) for value in record["validation"]["metrics"].values())
    assert set(record["train"]) <= set(problem.loss_names)
    assert any(
        not torch.equal(was, now) for was, now in zip(before, training.model.parameters(), strict=True)
    )


def test_a_molecule_is_what_its_pieces_are_and_labels_may_be_missing(made):
    found = molecules.tox21(made)
    assert found.features.shape == (400, molecules.PIECES)
    assert found.features.min() >= 0
    labels = np.stack(list(found.labels.values()))
    assert 0.2 < np.isnan(labels).mean() < 0.5
    assert set(np.unique(labels[~np.isnan(labels)])) == {0.0, 1.0}
    problem = problem_of("tox21", made)
    inputs, targets = problem.datasets(0).train.batch(torch.arange(8), None)
    targets["SR-p53"] = torch.full((8,), torch.nan)
    _, outputs = problem.model()(inputs)
    losses = problem.compute_losses(outputs, targets)
    assert losses["SR-p53"] is None
    known = ~torch.isnan(targets["NR-AR"])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        outputs["NR-AR"][known], targets["NR-AR"][known]
    )
    assert torch.equal(losses["NR-AR"], expected)


def test_every_row_has_the_label_of_its_own_set_only(made):
    train = problem_of("usps-mnist", made).datasets(0).train
    there = torch.stack([train.targets[name] != NO_LABEL for name in ("usps", "mnist")])
    assert torch.equal(there.sum(0), torch.ones(400, dtype=torch.long))
    assert there.sum(1).tolist() == [200, 200]


@pytest.mark.parametrize(
    ("name", "where"), [("usps-mnist", "encoder."), ("school", "encoder."), ("burgers", "")]
)
def test_methods_compare_gradients_at_parameters_where_features_say_nothing(name, where, made):
    problem = problem_of(name, made)
    arm = choose_arm("pcgrad", problem)
    training = Training(problem, arm, 0, lambda _: ArmContext(problem.loss_names, 0))
    wanted = [each for known, each in training.model.named_parameters() if known.startswith(where)]
    assert [*map(id, training.trainer.shared_params)] == [*map(id, wanted)]
    training.step(1, *training.batch(0))
    assert training.trainer.multi.last.measured_at == "shared_params"


def test_a_losss_average_weight_is_over_the_steps_that_have_it(made):
    """Few steps of School have every school, and a fixed weight is the same in all that have it."""
    problem = problem_of("school", made)
    problem.batch_size = 100
    arm = choose_arm("static:school 001=3", problem)
    training = Training(
        problem, arm, 0, lambda model: ArmContext(problem.loss_names, 0, problem=problem, model=model)
    )
    list(training.epochs())
    weights = training.result()["mean_weights"]
    counts = training.state.weights.counts
    assert min(counts.values()) < max(counts.values())
    assert weights == pytest.approx({name: 3.0 if name == "school 001" else 1.0 for name in counts})


def test_targets_without_a_common_unit_are_scaled_by_the_training_split(made):
    train = problem_of("qm9", made).datasets(0).train
    for values in train.targets.values():
        assert abs(float(values.mean())) < 1e-5
        assert float(values.std()) == pytest.approx(1.0, abs=1e-4)


def test_the_exact_solution_of_burgers_solves_it():
    x = torch.linspace(-0.95, 0.95, 39, dtype=torch.float64).repeat(9).requires_grad_()
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64).repeat_interleave(39).requires_grad_()
    u = exact(x, t)
    u_x, u_t = torch.autograd.grad(u.sum(), (x, t), create_graph=True)
    (u_xx,) = torch.autograd.grad(u_x.sum(), x)
    assert float((u_t + u * u_x - NU * u_xx).detach().abs().max()) < 1e-6
    at = torch.tensor([-1.0, -0.3, 0.5, 1.0], dtype=torch.float64)
    assert torch.allclose(exact(at, torch.full_like(at, 1e-6)), -torch.sin(torch.pi * at), atol=1e-4)
    assert torch.allclose(exact(at[[0, 3]], torch.full((2,), 0.7)), torch.zeros(2, dtype=torch.float64))


def test_the_residual_start_and_sides_of_a_known_function(monkeypatch):
    """u = x^2 t: u_t = x^2, u_x = 2 x t, u_xx = 2 t."""
    split = points(50, seed=3)
    x, t = split.inputs[:, 0].unbind(1)
    assert split.inputs[:, 1, 1].eq(0).all()
    assert split.inputs[:, 2, 0].abs().eq(1).all()
    assert torch.equal(split.targets["solution"], exact(x, t))
    monkeypatch.setattr(Solution, "u", lambda _, x, t: x.square() * t)
    with torch.no_grad():
        _, found = Solution()(split.inputs)
    assert torch.allclose(found["residual"], x**2 + x**2 * t * 2 * x * t - NU * 2 * t, atol=1e-6)
    assert torch.allclose(found["start"], torch.sin(torch.pi * split.inputs[:, 1, 0]))
    assert torch.equal(found["sides"], split.inputs[:, 2, 1])


def test_what_is_missing_or_damaged_is_named(made, tmp_path):
    with pytest.raises(LabError, match=r"school\.mat"):
        problem_of("school", tmp_path).datasets(0)
    (tmp_path / "school.mat").write_bytes(b"no mat")
    with pytest.raises(LabError, match=r"school\.mat is damaged"):
        problem_of("school", tmp_path).datasets(0)
    (tmp_path / "qm9_499_chemprop.csv").write_text("smiles\nC\n")
    with pytest.raises(LabError, match="it has no column 'mu'"):
        molecules.qm9(tmp_path)


def test_the_folder_of_the_data_is_for_the_problems_that_have_data(tmp_path):
    assert [name for name in problems() if not recipe_named(name).takes("data_root")] == ["burgers"]
    text = io.StringIO()
    found = board(
        ["burgers"],
        methods=["equal"],
        tune=0,
        single_task=True,
        console=Console(file=text, width=1000),
        scale="smoke",
        jobs=1,
        data_root=tmp_path,
        out=tmp_path / "board",
    )
    assert [entry.problem for entry in found.entries] == ["burgers"]
    assert "burgers" in (tmp_path / "board" / "board.html").read_text(encoding="utf-8")
    assert (tmp_path / "board" / "burgers.json").is_file()
    assert "burgers is compared without single tasks. --single-task compares every metric" in text.getvalue()


def test_anyone_adds_a_method_to_a_board_that_was_packed(tmp_path):
    text = io.StringIO()
    asked = {"tune": 0, "seeds": 1, "scale": "smoke", "jobs": 1}
    asked["console"] = Console(file=text, width=1000)
    board(["burgers"], methods=["equal"], out=tmp_path / "theirs", **asked)
    pack(tmp_path / "theirs" / "burgers", tmp_path / "results" / "burgers.tar.xz")
    mine = tmp_path / "mine"
    (entry,) = board(
        ["burgers"], methods=["equal", "mgda"], out=mine, start_from=tmp_path / "results", **asked
    ).entries
    assert list(entry.methods) == ["equal", "mgda"]
    said = text.getvalue()
    assert f"{mine / 'burgers'} starts from {tmp_path / 'results' / 'burgers.tar.xz'}." in said
    assert "2 methods x 1 seed, " in said
    assert "1 of 2 trials to run" in said
    packed = tmp_path / "results" / "burgers.tar.xz"
    with pytest.raises(LabError, match=r"is the run of one problem, and there are 2\. Give the folder that"):
        board(["burgers", "school"], out=tmp_path / "none", start_from=packed, **asked)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("problem", "losses"),
    [
        ("school", "school 001, school 002, school 003, school 004, school 005, school 006, and 133 more"),
        ("burgers", "residual, start, sides"),
    ],
)
def test_single_tasks_are_refused_where_metrics_are_of_no_loss(problem, losses, tmp_path):
    with pytest.raises(LabError, match=rf"{problem} has no loss called '\w+', as its metric is") as error:
        compare(problem, ["equal"], single_task=True, out=tmp_path / "run")
    assert f"(its losses: {losses})" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_board_knows_its_problems_and_methods():
    assert set(OTHERS) <= set(all_recipes())
    assert all(SCALE in recipe_named(name).scales for name in OTHERS)
    assert set(problems()) == set(board_recipes()) | set(OTHERS)
    for name in board_recipes():
        problem = recipe_named(name).problem()
        assert problem.name == name
        for method in METHODS:
            choose_arm(method, problem)
