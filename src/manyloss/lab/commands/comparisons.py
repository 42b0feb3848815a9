"""``manyloss compare`` and ``manyloss report``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyloss.lab import checks
from manyloss.lab.commands.experiments import page_of, run_experiment, show
from manyloss.lab.commands.packs import start_from_packed
from manyloss.lab.commands.requests import as_fraction, choose_seeds, request_of, script_of, split_methods

if TYPE_CHECKING:
    from rich.console import Console

    from manyloss.lab.analysis.comparison import ComparedMethods
    from manyloss.lab.problem import Problem
    from manyloss.lab.runs.executors import Executor


def compare(
    problem: str | Path | type[Problem],
    methods: str | Sequence[str] | None = None,
    *,
    seeds: int | Sequence[int] | None = None,
    epochs: int | None = None,
    jobs: int | None = None,
    out: str | Path | None = None,
    data: str | None = None,
    data_root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    scale: str | None = None,
    device: str = "cpu",
    fast: bool = False,
    retry: bool = False,
    trial_timeout: float | None = None,
    at_least: float | str = 0.0,
    tune: int = 0,
    prune: bool = False,
    retune: str | Sequence[str] = (),
    pareto: str | Sequence[str] = (),
    single_task: bool = False,
    metrics: Sequence[str] = (),
    launch: str = "",
    arguments: Sequence[str] = (),
    executor: str | Executor = "processes",
    start_from: str | Path | None = None,
    console: Console | None = None,
    command: Sequence[str] = (),
) -> ComparedMethods:
    """Train a problem with several methods and seeds, and say which method is better beyond noise.

    Everything is kept in a folder. Called again it finishes what is missing; with more methods or seeds it
    adds them.

    Args:
        problem: a recipe's name, a file with a `Problem`, a `Problem` class, or a training script that uses
            `manyloss.lab.method` (then ``metrics`` are needed).
        methods: such as ``["equal", "gradnorm:alpha=0.5"]``.
        seeds: how many, or which ones.
        epochs: per trial; a script decides itself.
        jobs: trials at a time; one per core when None.
        out: the folder; ``runs/NAME`` when None.
        data: which data, where a recipe has several.
        data_root: the folder of the data sets.
        options: of the problem's constructor: ``{"width": 16}``.
        scale: a recipe's size.
        device: where to train.
        fast: on a GPU, train in bfloat16, channels last and compiled; evaluation is in full precision.
        retry: let crashed trials go on.
        trial_timeout: seconds that one trial may take.
        at_least: the smallest relative change that matters (0.005 or "0.5%"): a smaller one is no difference.
        tune: try so many settings of every method (its own options and the learning rate) and of the weighted
            sum (weights, learning rate, weight decay), choose on validation, and compare the chosen ones with
            fresh seeds, against equal weights and against the tuned sum.
        prune: stop a tried setting that is behind the median of those before it.
        retune: rows whose settings are searched anew, such as ``["gradnorm", "tuned sum"]``: where what is
            searched for them has changed since. Trials that are there are not trained again.
        pareto: two or more metrics, ``"left/accuracy,right/accuracy"``: static weights are trained, too, and
            the table says whether a method leaves the front of the sum.
        single_task: train each loss alone, too, for the change against single tasks.
        metrics: of a script, as ``"val/accuracy:max"`` or ``"val/rmse:min"``.
        launch: of a script, what goes in front: ``"torchrun --nproc-per-node 4"``.
        arguments: of a script.
        executor: where trials run: "processes" on this machine, "slurm:slurm_partition=gpu:timeout_min=60",
            "ray:address=auto:gpus_per_trial=0.5", or an `Executor`. All keep the same folder.
        start_from: a file that `pack` wrote, or a folder of such files by name: where the run folder is not
            there yet it starts as what was packed, and only what is missing is run.
        console: where to print; nothing is printed when None.
        command: what is written into the report as the command.

    Raises:
        LabError: what was asked for cannot be done; the text says what to do.
        KeyboardInterrupt: stopped; all but the running epochs is kept.

    """
    from manyloss.lab.experiment import Experiment

    as_fraction(at_least)  # a slip is said before anything is trained
    if isinstance(tune, bool) or not isinstance(tune, int) or tune < 0:
        raise checks.LabError(
            f"--tune {str(tune)[:60]!r} is not understood. Give how many settings each method gets: 20."
        )
    request = request_of(
        problem,
        data=data,
        data_root=data_root,
        options=options,
        scale=scale,
        script=script_of(metrics, launch, arguments),
    )
    words = [*request.words, *([] if epochs is None else [f"epochs-{epochs}"])]
    name = "-".join(
        [request.name, *words, *([f"tune-{tune}"] if tune else []), *(["prune"] if prune else [])]
    )
    root = Path("runs") / name if out is None else Path(out)
    start_from_packed(start_from, root, name, console)
    experiment = Experiment(
        request.source,
        request.methods if methods is None else split_methods(methods),
        choose_seeds(request.seeds if seeds is None else seeds),
        root,
        tune=tune,
        prune=prune,
        retune=tuple(split_methods(retune)),
        pareto=tuple(dict.fromkeys(split_methods(pareto))),
        single_task=single_task,
        common={
            "epochs": request.epochs if epochs is None else epochs,
            "jobs": jobs,
            "device": device,
            "fast": fast,
            "command": list(command) or [f"lab.compare({str(problem)!r}, ...)"],
            "notes": request.notes,
        },
    )
    return run_experiment(
        experiment,
        retry=retry,
        timeout=trial_timeout,
        executor=executor,
        console=console,
        at_least=as_fraction(at_least),
    )


def report(
    run: str | Path,
    *,
    out: str | Path | None = None,
    at_least: float | str = 0.0,
    console: Console | None = None,
) -> ComparedMethods:
    """Read a run folder and write its page; nothing is trained.

    Args:
        run: the folder that `compare` wrote.
        out: the page's file; ``report.html`` in the folder when None.
        at_least: the smallest relative change that matters.
        console: where to print the table.

    """
    from manyloss.lab.analysis.comparison import ComparedMethods

    smallest = as_fraction(at_least)
    page = page_of(Path(run), None if out is None else Path(out), console, smallest)
    results = ComparedMethods.read(Path(run), page, smallest)
    if console is not None:
        show(results, console)
    return results
