"""Makes run folders of format 1 with believable numbers, for the tests of what reads them."""

import json
import math
from pathlib import Path

import numpy as np

from manyloss.lab.runs.storage import trial_folder

LEVELS = {"equal": 0.0, "gradnorm": 0.004, "graddrop": -0.002, "pcgrad": 0.03, "mgda": -0.05, "cosreg": 0.015}
SLOWDOWNS = {"equal": 1.0, "gradnorm": 1.12, "graddrop": 1.08, "pcgrad": 1.15, "mgda": 1.14, "cosreg": 1.9}


def make_run(
    folder: Path,
    *,
    arms=tuple(LEVELS),
    tasks=("left", "right"),
    seeds=5,
    epochs=20,
    steps_per_epoch=40,
    record_every=4,
    failures=(),
    problem="cosreg-two-digits",
    metric="accuracy",
):
    """Write a run folder. ``failures``: (arm, seed, status, reason); unfinished ones get no result.json."""
    failed = {(arm, seed): (status, reason) for arm, seed, status, reason in failures}
    study = {
        "format": 1,
        "problem": problem,
        "command": ["manyloss", "compare", problem, "--seeds", str(seeds), "--out", "runs/two digits"],
        "created": "2026-03-14T15:09:26+00:00",
        "arms": list(arms),
        "summaries": {arm: f"What {arm} does." for arm in arms},
        "baseline": arms[0],
        "seeds": list(range(seeds)),
        "epochs": epochs,
        "metrics": {
            f"{task}/{metric}": {"task": task, "higher_is_better": True, "derived": False} for task in tasks
        },
        "losses": list(tasks),
        "settings": {
            "source": {"recipe": problem, "options": {}},
            "batch_size": 64,
            "departures": ["Smaller images.", "Fewer epochs."],
            "scale": None,
        },
        "environment": {
            "manyloss": "0.1.0",
            "torch": "2.13.0",
            "python": "3.11.2",
            "numpy": "2.3.1",
            "platform": "Linux x86_64",
            "processor": "AMD EPYC",
            "cores": 2,
            "threads_per_trial": 1,
            "commits": ["83aee79"],
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "study.json", study)
    for number, arm in enumerate(arms):
        for seed in range(seeds):
            status, reason = failed.get((arm, seed), ("finished", None))
            if status == "missing":
                continue
            _make_trial(folder, study, arm, number, seed, status, reason, steps_per_epoch, record_every)
    return folder


TUNED = {
    "equal": "equal:optimizer.lr_factor=2",
    "pcgrad": "pcgrad:optimizer.lr_factor=0.5",
    "tuned sum": "static:left=0.5:right=1.5:optimizer.lr_factor=3:optimizer.weight_decay=0.001",
}
SWEEP = tuple(f"static:left={share:g}:right={2 - share:g}" for share in (0.2, 0.6, 1.0, 1.4, 1.8))


def make_tuned_run(folder: Path, seeds=5):
    """A run folder of ``--tune 3 --prune --pareto ... --single-task``, with values by hand."""
    make_run(folder, arms=tuple(TUNED.values()), seeds=seeds)
    study = json.loads((folder / "study.json").read_text())
    study |= {"labels": TUNED, "tuned": {"settings": 3, "prune": True, "seed": 1_000_000}}
    _write(folder / "study.json", study)
    make_run(folder / "sweep", arms=SWEEP, seeds=seeds)
    make_run(folder / "single", arms=("single:left", "single:right"), seeds=seeds)
    _write(folder / "pareto.json", {"metrics": ["left/accuracy", "right/accuracy"]})
    _write(folder / "step_time.json", {"ratios": {TUNED["equal"]: 1.0, TUNED["pcgrad"]: 1.5}})
    for number, (label, arm) in enumerate(TUNED.items()):
        _set_test(folder, arm, seeds, 0.80 + 0.02 * number, 0.70 + 0.01 * number)
        assert label
    for place, arm in enumerate(SWEEP):
        _set_test(folder / "sweep", arm, seeds, 0.74 + 0.02 * place, 0.74 - 0.02 * place)
    _set_test(folder / "single", "single:left", seeds, left=0.8)
    _set_test(folder / "single", "single:right", seeds, right=0.7)
    rows = []
    for label, chosen in TUNED.items():
        default = {"equal": "equal", "pcgrad": "pcgrad"}.get(label, "static")
        arms = [default, chosen, f"{default}:optimizer.lr_factor=9"]
        statuses = ("finished", "finished", "diverged" if label == "pcgrad" else "pruned")
        for gained, (arm, status) in enumerate(zip(arms, statuses, strict=True)):
            trial = trial_folder(folder / "tuning", arm, 1_000_000)
            trial.mkdir(parents=True, exist_ok=True)
            found = {"left/accuracy": 0.5 + 0.05 * gained, "right/accuracy": 0.5}
            _write(
                trial / "result.json",
                {"status": status, "reason": None, "validation": found, "test": {}, "seconds": 60.0},
            )
        settings = [{"arm": arm, "drawn": None, "pruning": None} for arm in arms]
        rows.append(
            {"label": label, "arm": default, "settings": settings, "chosen": chosen, "exhausted": False}
        )
    tuning = {"format": 1, "settings": 3, "prune": True, "seed": 1_000_000, "baseline": "equal"}
    directions = dict.fromkeys(["left/accuracy", "right/accuracy"], True)
    _write(folder / "tuning" / "tuning.json", {**tuning, "higher_is_better": directions, "rows": rows})
    return folder


def _set_test(folder, arm, seeds, left=None, right=None):
    """Test values around these, the same noise for all arms of a seed and a little of the arm's own."""
    given = {"left/accuracy": left, "right/accuracy": right}
    for seed in range(seeds):
        path = trial_folder(folder, arm, seed) / "result.json"
        noise = 0.004 * math.sin(7 * seed) + 0.0005 * math.sin(len(arm) * seed)
        test = {name: value + noise for name, value in given.items() if value is not None}
        _write(path, {**json.loads(path.read_text()), "test": test})


def _make_trial(folder, study, arm, number, seed, status, reason, steps_per_epoch, record_every):
    draw = np.random.default_rng([seed, number])
    shared = np.random.default_rng(seed).normal(0, 0.006)
    tasks = study["losses"]
    metrics = list(study["metrics"])
    epochs = study["epochs"] if status == "finished" else max(study["epochs"] // 3, 1)
    level = LEVELS.get(arm, 0.01 * math.sin(2.1 * number))
    slowdown = SLOWDOWNS.get(arm, 1.0 + 0.05 * (number % 7))
    trial = trial_folder(folder, arm, seed)
    trial.mkdir(parents=True)
    _write(trial / "settings.json", {"arm": arm, "seed": seed, "hash": f"{number:04x}{seed:04x}"})
    offsets = 0.02 * np.cos(np.arange(len(tasks)) * 1.7)
    rows, last = [], {}
    for epoch in range(1, epochs + 1):
        reached = 1 - math.exp(-4 * epoch / study["epochs"])
        values = 0.3 + (0.58 + level + shared) * reached + offsets + draw.normal(0, 0.006, len(tasks))
        losses = 2.2 * (1 - 0.9 * reached) * (1 + offsets * 5) * (1 - level) + draw.normal(
            0, 0.01, len(tasks)
        )
        last = dict(zip(metrics, np.round(values, 5).tolist(), strict=True))
        rows.append(
            {
                "epoch": epoch,
                "steps": steps_per_epoch,
                "learning_rate": 1e-3,
                "seconds": 0.4,
                "step_ms": 6.0 * slowdown + abs(draw.normal(0, 0.1)),
                "train": dict(zip(tasks, np.round(losses, 5).tolist(), strict=True)),
                "validation": {
                    "metrics": last,
                    "losses": dict(zip(tasks, np.round(losses * 1.1, 5).tolist(), strict=True)),
                },
            }
        )
    (trial / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (trial / "steps.jsonl").write_text(
        "".join(
            json.dumps(_step(step, steps_per_epoch, arm, tasks, draw)) + "\n"
            for step in range(record_every, epochs * steps_per_epoch + 1, record_every)
        )
    )
    if status == "unfinished":
        return
    done = status == "finished"
    test = {name: value - 0.004 + draw.normal(0, 0.002) for name, value in last.items()}
    result = {
        "status": status,
        "reason": reason,
        "best_epoch": epochs - 1 if done else None,
        "validation": last if done else {},
        "test": test if done else {},
        "step_ms": 6.0 * slowdown + abs(draw.normal(0, 0.1)),
        "seconds": 0.4 * epochs,
        "cosine_std": {"left|right": 0.3} if len(tasks) == 2 else {},
    }
    _write(trial / "result.json", result)


def _step(step, steps_per_epoch, arm, tasks, draw):
    count = len(tasks)
    phase = step / steps_per_epoch
    index = np.arange(count)
    norms = np.exp(-phase / 12 + 0.8 * np.sin(index)) * np.exp(draw.normal(0, 0.15, count))
    if arm == "equal":
        weights = np.ones(count)
    else:
        weights = np.exp(
            0.5 * np.sin(index * 2.3 + phase / 5) * min(phase / 4, 1) + draw.normal(0, 0.05, count)
        )
    base = np.cos(0.9 * (index[:, None] - index[None, :])) * 0.6 - 0.25
    base += 0.3 * np.sin(phase / 3 + index[:, None] + index[None, :]) + draw.normal(0, 0.08, (count, count))
    base = np.clip((base + base.T) / 2, -1, 1)
    np.fill_diagonal(base, 1.0)
    return {
        "step": step,
        "epoch": (step - 1) // steps_per_epoch + 1,
        "losses": dict(
            zip(tasks, (2.2 * np.exp(-phase / 6) * np.ones(count)).round(5).tolist(), strict=True)
        ),
        "weights": dict(zip(tasks, weights.round(5).tolist(), strict=True)),
        "norms": dict(zip(tasks, norms.round(5).tolist(), strict=True)),
        "cosines": base.round(4).tolist(),
        "names": list(tasks),
    }


def _write(path, value):
    path.write_text(json.dumps(value, indent=1))
