"""``manyloss diagnose``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyloss.lab import checks
from manyloss.lab.commands.requests import request_of, script_of

if TYPE_CHECKING:
    from rich.console import Console

    from manyloss.lab.diagnosis import Diagnosed
    from manyloss.lab.problem import Problem


def diagnose(
    problem: str | Path | type[Problem],
    *,
    epochs: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    data: str | None = None,
    data_root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    scale: str | None = None,
    device: str = "cpu",
    layers: bool = True,
    launch: str = "",
    arguments: Sequence[str] = (),
    console: Console | None = None,
) -> Diagnosed:
    """Say in words whether the losses conflict, where, and whether it is worth doing something.

    Args:
        problem: a recipe, a file with a `Problem`, a `Problem` class, a training script, or the ``.jsonl`` of
            a ConflictRecorder.
        epochs: how many to train; at most 3 when None.
        seed: of initial weights and data order.
        out: the folder to write to; ``runs/diagnose-NAME`` when None.
        data: which data, where a recipe has several.
        data_root: the folder of the data sets.
        options: of the problem's constructor: ``{"width": 16}``.
        scale: a recipe's size.
        device: where to train.
        layers: also look at the encoder's layers.
        launch: of a script, what goes in front.
        arguments: of a script; it decides itself how long it trains.
        console: where to print.

    """
    from manyloss.lab.diagnosis import (
        diagnose_problem,
        diagnose_records,
        diagnose_script,
        print_diagnosis,
    )
    from manyloss.lab.runs.tryout import try_out

    if str(problem).endswith(".jsonl"):
        path = Path(str(problem))
        found = diagnose_records(path, path.parent if out is None else Path(out))
    else:
        script = script_of((), launch, arguments)
        request = request_of(
            problem, data=data, data_root=data_root, options=options, scale=scale, script=script
        )
        name = "-".join(["diagnose", request.name, *request.words])
        source = request.source.known_as_script()
        run: Callable[..., Diagnosed] = diagnose_problem
        settings: dict[str, Any] = {"epochs": epochs, "seed": seed, "device": device, "layers": layers}
        if source.script is not None:
            if epochs is not None:
                raise checks.not_options(
                    request.name, ["epochs"], "a script gets its own arguments, behind --."
                )
            run, settings = diagnose_script, {"seed": seed}
        folder = Path("runs") / name if out is None else Path(out)
        with source.on_path():
            if source.script is None and source.is_file:
                try_out(source.load(), seed)
            if console is None:
                return run(source, folder, **settings)
            with console.status("Training with the plain sum") as status:

                def progress(done: float, losses: Mapping[str, float]) -> None:  # noqa: ARG001
                    status.update(f"Training with the plain sum, epoch {done:.1f}")

                found = run(source, folder, **settings, progress=progress)
    if console is not None:
        print_diagnosis(found, console)
    return found
