"""`manyloss diagnose`: train on the plain sum for a few epochs, look at the gradients, say what is there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from torch import nn

from manyloss.diagnostics import ConflictRecorder, Diagnosis, diagnose
from manyloss.lab import checks
from manyloss.lab.printing import printable
from manyloss.lab.reports.diagnosis import render_page
from manyloss.lab.runs import storage
from manyloss.lab.runs.execution import cores
from manyloss.lab.runs.script_trial import ScriptTrial
from manyloss.lab.runs.source import Source
from manyloss.lab.runs.trial import Trial, TrialSpec
from manyloss.lab.scripts import RECORD
from manyloss.lab.training import DivergedError, MultiLossTrainer, silent

EPOCHS = 3
#: About so many records, whatever the length of the run.
RECORDS = 100
#: Layers that are looked at, from the encoder's first to its last.
LAYERS = 8

COLORS = {"none": "green", "mild": "yellow", "strong": "red", "unclear": "yellow"}
Progress = Callable[[float, Mapping[str, float]], None]


@dataclass(frozen=True)
class Diagnosed:
    """What was found, and where it was written."""

    problem: str
    diagnosis: Diagnosis
    records: Sequence[Mapping[str, Any]]
    page: Path
    note: str


def diagnose_problem(
    source: Source,
    out: Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    layers: bool = True,
    progress: Progress | None = None,
) -> Diagnosed:
    """Train the problem with the plain sum and record conflict at the features and in the encoder's layers.

    Args:
        source: a recipe or a file.
        out: the folder of ``conflict.jsonl`` and ``diagnose.html``.
        epochs: how many; 3, or the problem's own if that is less, when None.
        seed: of initial weights and data order.
        device: where to train.
        layers: also read the encoder's layers: one more backward per loss and record.
        progress: called with the epochs done and the latest losses.

    Raises:
        LabError: the problem records no gradients, or its trial crashed.

    """
    problem = source.load()
    chosen = min(problem.epochs, EPOCHS) if epochs is None else epochs
    training = Trial(TrialSpec(source, "equal", seed, chosen, out, device)).training()
    if not isinstance(training.trainer, MultiLossTrainer):
        raise _nothing_to_see(problem.name)
    every = max(1, training.steps_per_epoch * chosen // RECORDS)
    watched = encoder_layers(training.model) if layers else {}
    diverged = ""
    with ConflictRecorder(training.trainer.multi, every, watched) as recorder:
        try:
            for _ in training.epochs(progress or silent):
                pass
        except DivergedError as error:
            diverged = f" The run diverged: {error}"
        except Exception as error:
            text = str(error) if isinstance(error, checks.LabError) else f"{type(error).__name__}: {error}"
            raise checks.LabError(
                f"{problem.name} cannot be diagnosed, its training failed: {' '.join(text.split())[:500]} "
                "`manyloss compare` with --methods equal keeps the whole traceback in log.txt."
            ) from error
    if not recorder.records:
        raise _nothing_to_see(problem.name)
    records = recorder.records
    pace = "one per step" if every == 1 else f"one every {every} steps"
    place = str(records[0]["place"]).replace("_params", " parameters")
    length = "1 epoch" if chosen == 1 else f"{chosen} epochs"
    note = (
        f"{problem.name}: plain sum of the losses, {length}, seed {seed}, "
        f"{len(records)} records, {pace}, at the {place}."
    )
    note += diverged
    storage.make_folder(out)
    _write_records(out / "conflict.jsonl", records)
    return _written(problem.name, records, out, note)


def diagnose_script(
    source: Source, out: Path, *, seed: int = 0, progress: Progress | None = None
) -> Diagnosed:
    """Run a script with equal weights, and look at the steps of its `manyloss.lab.method`.

    Every step is recorded at first, then one in 2, 4, ...: so many are kept that they lie evenly. Ctrl-C ends
    the script; what was recorded by then is diagnosed.

    Args:
        source: the script, with its arguments and launcher.
        out: the folder of ``conflict.jsonl``, ``diagnose.html`` and ``log.txt``; `manyloss.lab.folder` is a
            passing one.
        seed: what `manyloss.lab.seed` gives.
        progress: called with the last epoch that it logged, and its metrics.

    Raises:
        LabError: the script failed, or took no step that could be recorded.

    """
    name = Path(source.where).stem
    storage.make_folder(out)
    ending, failed = "", {}
    with tempfile.TemporaryDirectory() as passing, (out / "log.txt").open("wb") as log:
        trial = ScriptTrial(TrialSpec(source, "equal", seed, 1, Path(passing), threads=cores()))
        path = Path(passing) / "conflict.jsonl"
        storage.make_folder(trial.folder)
        with storage.only_writer(trial.folder):
            try:
                code = trial.execute(progress or silent, {RECORD: str(path)}, log.fileno())
                failed = {} if code == 0 else trial.why(code, out / "log.txt")
            except KeyboardInterrupt:
                ending = " It was stopped."
        records = _evenly(list(storage.read_lines(path))) if path.exists() else []
    if failed.get("status") == "diverged":
        ending = f" The run diverged: {failed['reason']}"
    elif failed:
        raise checks.LabError(
            f"{name} cannot be diagnosed, it failed: {failed['reason']} What it said is in {out / 'log.txt'}."
        )
    if not records:
        raise checks.LabError(
            f"{name} took no step that could be recorded, so there are no per-loss gradients to look at. "
            "Train with multi = lab.method() and multi.backward(losses, features=...)."
        )
    _write_records(out / "conflict.jsonl", records)
    place = str(records[0]["place"]).replace("_params", " parameters")
    note = f"{name}: equal weights, seed {seed}, {len(records)} records, at the {place}.{ending}"
    return _written(name, records, out, note)


def _evenly(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that lie as far apart as the last ones do."""
    steps = [int(record["step"]) for record in records]
    apart = steps[-1] - steps[-2] if len(steps) > 1 else 1
    kept: list[Mapping[str, Any]] = []
    for record, step in zip(records, steps, strict=True):
        if not kept or step - int(kept[-1]["step"]) >= apart:
            kept.append(record)
    return kept


def _nothing_to_see(problem: str) -> checks.LabError:
    return checks.LabError(
        f"{problem} trains without MultiLoss, so there are no per-loss gradients to look at. "
        "Diagnose a problem whose training_step calls multi.backward(losses, features=...)."
    )


def diagnose_records(path: Path, out: Path) -> Diagnosed:
    """The same words and figures for the file of a ConflictRecorder."""
    try:
        if not path.is_file():
            raise checks.cannot_read(path, FileNotFoundError(2, "No such file"))
        records = list(storage.read_lines(path))  # up to a last line that was cut short
        found = _written(path.stem, records, out, f"{path.name}: {len(records)} records.")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise checks.LabError(
            f"{path} holds no records of a ConflictRecorder ({type(error).__name__}: {error}). "
            f"Give the file that its path= named, a recipe, or a file with your Problem."
        ) from error
    return found


def print_diagnosis(found: Diagnosed, console: Console) -> None:
    """The answer first, then the figures behind it, then the advice."""
    diagnosis = found.diagnosis
    console.print(f"[dim]{escape(printable(found.note))}[/]")
    console.print(f"\n[bold {COLORS[diagnosis.verdict]}]{escape(printable(diagnosis.answer))}[/]\n")
    for finding in diagnosis.findings:
        console.print(f"  - {escape(printable(finding.sentence))}")
    console.print(f"\n[bold]{escape(printable(diagnosis.advice))}[/]\n")
    console.print(f"Figures: {escape(str(found.page))}", soft_wrap=True)


def _written(name: str, records: Sequence[Mapping[str, Any]], out: Path, note: str) -> Diagnosed:
    diagnosis = diagnose(records)
    storage.make_folder(out)
    page = out / "diagnose.html"
    storage.write_bytes(page, render_page(name, diagnosis, records, note).encode("utf-8"))
    return Diagnosed(name, diagnosis, records, page, note)


def _write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    storage.cut(path, 0)
    storage.append_lines(path, records)


def encoder_layers(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The encoder's modules with a matrix of their own, from first to last, at most `LAYERS` of them."""
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, nn.Module):
        return {}
    found = {}
    for name, module in encoder.named_modules():
        own = [param for param in module.parameters(recurse=False) if param.requires_grad]
        if any(param.dim() >= 2 for param in own):
            found[f"{type(module).__name__} {name}".strip()] = own
    if len(found) <= LAYERS:
        return found
    names = list(found)
    chosen = {round(i * (len(names) - 1) / (LAYERS - 1)) for i in range(LAYERS)}
    return {names[i]: found[names[i]] for i in sorted(chosen)}
