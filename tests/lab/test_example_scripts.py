"""examples/scripts: each differs from its plain version by at most five lines, and trains as that does."""

import subprocess
import sys
from pathlib import Path

import pytest

from manyloss import lab
from tests.test_examples import before

FOLDER = Path(__file__).parents[2] / "examples" / "scripts"
SCRIPTS = sorted(FOLDER.glob("*.py"))
NEEDS = {
    "lightning_script": "lightning",
    "huggingface_script": "transformers",
    "accelerate_script": "accelerate",
}


def run(path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(path), "--epochs", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if "_runtime" not in line]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_at_most_five_lines_are_changed(path):
    source = path.read_text(encoding="utf-8")
    text, changed = before.plain(source), before.changes(source).splitlines()
    assert 0 < sum(line.startswith("+") for line in changed) <= 5
    body = text[text.index('"""\n', 3) :]
    assert not [word for word in ("lab.", "manyloss", "multi") if word in body]
    compile(text, str(path), "exec")


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_trains_as_it_did(path, tmp_path):
    """By itself a script trains on the sum: what it prints at the end is what the plain version prints."""
    pytest.importorskip(NEEDS[path.stem])
    plain = tmp_path / path.name
    plain.write_text(before.plain(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert run(path) == run(plain)


@pytest.mark.slow
def test_a_script_is_compared_behind_accelerate(tmp_path):
    path = FOLDER / "accelerate_script.py"
    results = lab.compare(
        path,
        ["equal", "pcgrad"],
        seeds=2,
        metrics=["val/rmse:min"],
        launch="accelerate launch --cpu",
        arguments=["--epochs", "2"],
        out=tmp_path / "run",
    )
    assert [row["finished"] for row in results.rows()] == [2, 2]
    assert len({row["val/rmse"] for row in results.rows()}) == 2
