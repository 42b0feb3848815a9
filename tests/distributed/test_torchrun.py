"""The script that the README shows, started as the README says."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_example_trains_and_the_ranks_agree() -> None:
    run = subprocess.run(
        [
            str(Path(sys.executable).parent / "torchrun"),
            "--nproc-per-node",
            "2",
            "--standalone",
            "examples/torchrun.py",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    # Two processes write to one stream: a line may begin where another one ends.
    epochs = re.findall(r"epoch (\d) mean ([\d.]+) sign ([\d.]+)", run.stdout)
    assert [epoch for epoch, _, _ in epochs] == ["1", "2", "3", "4", "5"]
    assert float(epochs[-1][1]) < 0.5 * float(epochs[0][1])
    assert float(epochs[-1][2]) < 0.7 * float(epochs[0][2])
    ends = dict(re.findall(r"rank (\d) parameters ([\d.]+)", run.stdout))
    assert set(ends) == {"0", "1"}
    assert ends["0"] == ends["1"]
