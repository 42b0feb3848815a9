"""Scripts behind torchrun: two ranks, killed and gone on; what ends them is told in the script's words."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from manyloss import lab
from manyloss.lab.runs import storage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed"),
]
SCRIPT = Path(__file__).with_name("script_of_ranks.py")
LAUNCH = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2"
SETTINGS = {"seeds": 1, "metrics": ["val/error:min"], "launch": LAUNCH, "jobs": 1}


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        ("raise", "crashed", "RuntimeError: asked to fail"),
        ("nan", "diverged", "NotFiniteError: Loss 'first' is nan"),
        ("kill", "crashed", "its process was ended by SIGKILL"),
    ],
)
def test_the_reason_is_that_of_the_script_not_of_the_launcher(end, status, reason, tmp_path):
    results = lab.compare(SCRIPT, ["equal"], out=tmp_path / "run", arguments=["--end", end], **SETTINGS)
    (trial,) = results.run.trials
    assert trial.status == status
    assert trial.reason.startswith(reason)


def processes_with(text):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if text.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
def test_a_killed_study_leaves_no_rank_behind_and_goes_on(tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-c",
        "from manyloss.cli import main; main()",
        "compare",
        str(SCRIPT),
        "--methods",
        "equal",
        "--seeds",
        "1",
    ]
    command += ["--metric", "val/error:min", "--launch", LAUNCH, "--out", str(out), "--", "--wait"]
    study = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = out / "trials" / "equal" / "seed-0"
    end = time.monotonic() + 120
    while not (folder / "script" / "epoch-2").exists():
        assert time.monotonic() < end
        assert study.poll() is None
        time.sleep(0.1)
    spec = f"MANYLOSS_TRIAL={folder / 'spec.json'}"
    assert len(processes_with(spec)) >= 3  # torchrun and two ranks
    os.kill(study.pid, signal.SIGKILL)
    study.wait()
    while processes_with(spec):
        assert time.monotonic() < end
        time.sleep(0.2)
    results = lab.compare(SCRIPT, ["equal"], out=out, arguments=["--wait"], **SETTINGS)
    (trial,) = results.run.trials
    assert trial.status == "finished"
    assert [record["epoch"] for record in storage.read_lines(folder / "log.jsonl")] == [1, 2, 3, 4]
    assert [record.epoch for record in trial.epochs] == [1, 2, 3, 4]
