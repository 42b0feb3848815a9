"""Every test starts from the same seed, and one thread each keeps tiny tensors fast."""

import os
import random
import re
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported

import pytest

#: Their tests start processes and take longest.
LONG = (
    "tests/lab/runs/",
    "tests/lab/test_commands.py",
    "tests/lab/test_scripts.py",
    "tests/test_cli.py",
    "tests/test_readme.py",
    "tests/distributed/",
)


def pytest_collection_modifyitems(items):
    """Long tests first: a worker that ends takes over what others have not begun, not half of a test."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch  # the process that only hands out tests does without

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_numbers():
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (code under test may use the global generator)
    torch.manual_seed(0)


@pytest.fixture
def manyloss(monkeypatch, capsys, tmp_path):
    """Run the command in this process: (exit code, output, errors), lines joined and spaces squeezed."""
    from manyloss import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["manyloss", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return end.value.code or 0, *(re.sub(r"\s+", " ", text) for text in (said.out, said.err))

    return run
