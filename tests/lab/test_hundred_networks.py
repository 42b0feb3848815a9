"""examples/hundred_networks.py with six of them: started on Ray, killed, gone on."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")
FILE = Path(__file__).parents[2] / "examples" / "hundred_networks.py"


@pytest.mark.slow
def test_six_networks_are_killed_and_go_on(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, str(FILE), "--networks", "6", "--epochs", "2", "--out", str(out)]
    command += ["--executor", "ray:address=local"]

    def finished():
        return {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}

    end = time.monotonic() + 120
    study = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(finished()) < 2:
        assert time.monotonic() < end
        assert study.poll() is None
        time.sleep(0.02)
    study.kill()
    study.wait()
    before = finished()
    assert 2 <= len(before) < 8
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of 6 drawn weights end below GradNorm" in done.stdout
    after = finished()
    assert len(after) == 8  # with equal weights and GradNorm
    assert all(after[path] == written for path, written in before.items())
