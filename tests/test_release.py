"""What is released: a wheel that works without the source tree, and an sdist to build it from."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import manyloss

ROOT = Path(__file__).parent.parent


def call(*command, **keywords):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, **keywords)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    call("-m", "hatchling", "build", "-d", str(folder), cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The wheel unpacked, and nothing of the source tree in sight."""
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(next(built.glob("*.whl"))).extractall(folder)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    found = call("-c", "import manyloss; print(manyloss.__file__)", cwd=folder, env=environment)
    assert Path(found.strip()).is_relative_to(folder)
    return lambda *command: call(*command, cwd=folder, env=environment)


def test_the_wheel_has_all_that_is_no_code(built):
    names = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    source = ROOT / "src"
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(source).as_posix() in names
    assert {"manyloss/py.typed", "manyloss/lab/claims/rules/graddrop-sines.toml"} <= names


def test_the_command_runs_without_the_source_tree(installed):
    run = "from manyloss.cli import main; main()"
    assert installed("-c", run, "--version").strip() == f"manyloss {manyloss.__version__}"
    assert "cosreg-two-digits" in installed("-c", run, "recipes")
    assert "gradnorm" in installed("-c", "import manyloss; print(list(manyloss.methods()))")


def test_the_version_is_one_and_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == citation["version"] == manyloss.__version__
    heading = rf"^## (Unreleased: )?{re.escape(project['version'])}\b"
    assert re.search(heading, (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_lowest_versions_are_those_of_the_bounds():
    """What `make test-lowest` installs: every bound as it stands, and none above what is tested every day."""
    lowest = dict(line.split("==") for line in call("tests/lowest.py", cwd=ROOT).splitlines())
    daily = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert lowest["torch"] == "2.6"
    assert {"numpy", "lightning", "optuna", "pytest"} <= set(lowest)
    assert set(lowest) <= set(daily)
    for name, version in lowest.items():
        assert Version(version) <= Version(daily[name]), name


def test_the_source_is_that_of_the_oldest_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    minors = [line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line]
    assert minors[0] == ".".join(map(str, oldest))
    for path in (ROOT / "src").rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=oldest)


def test_the_core_needs_torch_and_numpy_only(tmp_path):
    """Blocks the import of everything else, as in an environment without the extras."""
    code = """
import importlib.metadata, re, sys
extras = {re.match(r"[\\w.-]+", line)[0].replace("-", "_") for line in importlib.metadata.requires("manyloss")
          if "extra ==" in line} - {"torch", "numpy", "manyloss"}
for name in extras | {"sklearn", "skimage", "PIL"}:
    sys.modules[name] = None
import torch
import manyloss, manyloss.adversarial, manyloss.diagnostics, manyloss.interop, manyloss.robustness
encoder = torch.nn.Linear(3, 2)
z = encoder(torch.randn(4, 3))
result = manyloss.multi_loss("pcgrad").backward([z.square().sum(), z[:, 0].sum()], features=z)
print(len(extras), result.path, encoder.weight.grad is not None)
"""
    count, path, written = call("-c", code, cwd=tmp_path).split()
    assert int(count) > 10
    assert (path, written) == ("one_backward", "True")
