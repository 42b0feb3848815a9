"""Problems that fail, and what is said of them before any trial starts."""

import json
from pathlib import Path

import pytest

from manyloss.lab import LabError
from manyloss.lab.checks import BrokenProblemError
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.tryout import try_out
from tests.lab.runs.test_trial import PROBLEM

GOOD = Path(PROBLEM).read_text()


def source_of(tmp_path, text):
    path = tmp_path / "my_problem.py"
    path.write_text(text)
    return Source(str(path))


@pytest.mark.parametrize(
    ("good", "bad", "doing", "last", "line"),
    [
        ("import os", "import os, nothing_like_it", "was imported", "ModuleNotFoundError", "nothing_like_it"),
        ("class DigitAndInk", "class class DigitAndInk", "was imported", "SyntaxError", "class class"),
        ("self.steps = 0", "self.steps = 1 / 0", "was made", "ZeroDivisionError", "1 / 0"),
        (
            "digits = load_digits()",
            "digits = load_digit()",
            "datasets(0) was called",
            "NameError",
            "load_digit()",
        ),
        ("nn.BatchNorm2d(4)", "nn.BatchNorm(4)", "its model was made", "AttributeError", "nn.BatchNorm(4)"),
        (
            "nn.Linear(144, 32)",
            "nn.Linear(145, 32)",
            "ran through its model",
            "RuntimeError: mat1 and mat2",
            "",
        ),
        ("F.mse_loss}", "lambda a, b: a.nope}", "its losses were", "has no attribute 'nope'", "a.nope"),
        ("import os", "import sys; sys.exit(2)", "was imported", "under `if __name__", "sys.exit(2)"),
    ],
)
def test_a_broken_problem_shows_its_own_short_traceback(good, bad, doing, last, line, tmp_path):
    assert good in GOOD
    source = source_of(tmp_path, GOOD.replace(good, bad, 1))
    with pytest.raises(BrokenProblemError) as error:
        try_out(source.load(), 0)
    text = str(error.value)
    assert doing in text.splitlines()[0]
    assert last in text.splitlines()[-1] + text
    assert line in text
    assert "src/manyloss" not in text
    assert "site-packages" not in text
    assert len(text.splitlines()) <= 12


def test_a_good_problem_passes(tmp_path):
    try_out(source_of(tmp_path, GOOD).load(), 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "has no Problem class. Write one subclass"),
        (GOOD + "\nclass Other(Problem):\n    pass\n", "has 2 Problem classes (DigitAndInk, Other)"),
        (GOOD.replace("part(1500, None)", "part(1500, 1500)"), "digit-and-ink: the test split is empty"),
        (
            GOOD.replace('"ink": MeanSquaredError', '"inc": MeanSquaredError'),
            "metrics has 'inc', but the targets of a batch have no 'inc': digit, ink.",
        ),
    ],
)
def test_a_file_without_one_problem_is_an_error(text, message, tmp_path):
    with pytest.raises(LabError) as error:
        try_out(source_of(tmp_path, text).load(), 0)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (
            "return Splits(part(0, 1280), part(1280, 1500), part(1500, None))",
            "return part(0, 10), part(10, 20)",
            "datasets(seed) returned a tuple of 2: TensorSplit, TensorSplit. Return Splits(",
        ),
        (
            "return Splits(part(0, 1280), part(1280, 1500), part(1500, None))",
            "return Splits(*[[{'image': x[0], 'label': 1}] * 8] * 3)",
            "a sample of a split is a dict of 'image', 'label'. It may be a pair (input, {task: target})",
        ),
        (
            "return Splits(part(0, 1280), part(1280, 1500), part(1500, None))",
            "return Splits(*[[(x[0], {'digit': y['digit'][0], 'ink': None})] * 8] * 3)",
            "the target of 'ink' is None in a sample, which cannot be stacked. Write collate_fn(samples)",
        ),
        (
            "return Splits(part(0, 1280), part(1280, 1500), part(1500, None))",
            "return Splits(*[[(x[0], {'ink': y['ink'][0] if i < 1 else None}) for i in range(8)]] * 3)",
            "the target of 'ink' is None in a sample, which cannot be stacked.",
        ),
        (
            "return Splits(part(0, 1280), part(1280, 1500), part(1500, None))",
            "return Splits(*[[(x[0].flatten()[: i + 1], {'ink': y['ink'][0]}) for i in range(8)]] * 3)",
            "the samples of a split cannot be stacked to a batch (stack expects each tensor to be equal size",
        ),
        (
            "def heads(self):",
            "def model(self):\n        return self.encoder()\n\n    def heads(self):",
            "its model returned a Tensor [4, 32]. Its forward must return (features, {task: output})",
        ),
        ('"ink": F.mse_loss}', '"ink": lambda a, b: (a - b) ** 2}', "loss 'ink' is a Tensor [4, 1], not one"),
        ('"ink": F.mse_loss}', '"ink": lambda a, b: a.sum() / 0 * 0}', "loss 'ink' is nan. Look for missing"),
    ],
)
def test_what_a_problem_may_return_is_said(good, bad, message, tmp_path):
    assert good in GOOD
    with pytest.raises(LabError) as error:
        try_out(source_of(tmp_path, GOOD.replace(good, bad, 1)).load(), 0)
    assert message in str(error.value)


def test_samples_of_any_kind_have_a_collate_fn(tmp_path):
    text = GOOD.replace(
        "return Splits(part(0, 1280), part(1280, 1500), part(1500, None))",
        "return Splits(*[[{'image': x[i]} | {t: v[i] for t, v in y.items()} for i in range(8)]] * 3)",
    ).replace(
        "    def heads(self):",
        "    def collate_fn(self, samples):\n"
        "        names = ('image', 'digit', 'ink')\n"
        "        image, *rest = [torch.stack([s[n] for s in samples]) for n in names]\n"
        "        return image, dict(zip(names[1:], rest))\n\n"
        "    def heads(self):",
    )
    tried = try_out(source_of(tmp_path, text).load(), 0)
    assert tried.measured_at == "encoder.5.weight, encoder.5.bias"
    assert tried.seconds > 0


def test_a_subclass_or_a_ready_problem_decides(tmp_path):
    more = GOOD + "\nclass Longer(DigitAndInk):\n    name = 'longer'\n"
    assert source_of(tmp_path, more).load().name == "longer"
    ready = GOOD + "\nproblem = DigitAndInk(pause=2.5)\n"
    source = source_of(tmp_path, ready)
    first = source.load()
    first.pause = 7
    assert source.load().pause == 2.5


def test_identity_is_the_content(tmp_path):
    one = source_of(tmp_path, GOOD).identity()
    assert one == source_of(tmp_path, GOOD).identity()
    assert one != source_of(tmp_path, GOOD + "\n# changed\n").identity()
    assert json.dumps(one)
