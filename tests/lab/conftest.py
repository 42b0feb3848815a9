"""Run folders that several tests read; nothing writes to them after they are made."""

import pytest

from tests.lab.run_folders import make_run, make_tuned_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """Six methods, two losses, five seeds, all finished."""
    return make_run(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="session")
def mixed_run(tmp_path_factory):
    """The same with failures of every kind."""
    failures = [
        ("mgda", 1, "diverged", "loss 'left' is nan at step 212"),
        ("mgda", 3, "diverged", "loss 'left' is nan at step 212"),
        ("cosreg", 4, "unfinished", None),
        ("pcgrad", 4, "missing", None),
        *(("gradnorm", seed, "crashed", "RuntimeError: <script>alert(1)</script>") for seed in range(5)),
    ]
    return make_run(tmp_path_factory.mktemp("mixed") / "run", failures=failures)


@pytest.fixture(scope="session")
def wide_run(tmp_path_factory):
    """Many losses, whose names are hard to print and to embed."""
    tasks = [f"task {i:02d} </script> & <b>" for i in range(12)]
    return make_run(tmp_path_factory.mktemp("wide") / "run", tasks=tasks, seeds=2, epochs=6)


@pytest.fixture(scope="session")
def tuned_run(tmp_path_factory):
    """Two methods and the tuned sum, with the tried settings, a sweep of static weights and single losses."""
    return make_tuned_run(tmp_path_factory.mktemp("tuned") / "run")
