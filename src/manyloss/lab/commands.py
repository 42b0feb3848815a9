"""The commands as functions, with the same words: ``manyloss compare`` is `compare`, and so on.

Each prints to ``console`` if one is given, and returns what a program can go on with. What is slow to import
is imported where it is used: a trial's own process needs none of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyloss.lab import checks

if TYPE_CHECKING:
    from rich.console import Console

    from manyloss.lab.analysis.board import Board
    from manyloss.lab.analysis.comparison import ComparedMethods
    from manyloss.lab.claims import Claim, Readings, Verdict
    from manyloss.lab.diagnosis import Diagnosed
    from manyloss.lab.experiment import Experiment
    from manyloss.lab.problem import Problem
    from manyloss.lab.runs.executors import Executor
    from manyloss.lab.runs.source import Source

DEFAULT_METHODS = ("equal", "gradnorm", "graddrop", "pcgrad", "mgda", "cosreg")
DEFAULT_SEEDS = 5
#: More seeds than this are a slip.
MOST_SEEDS = 10_000


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
    pareto: str | Sequence[str] = (),
    single_task: bool = False,
    metrics: Sequence[str] = (),
    launch: str = "",
    arguments: Sequence[str] = (),
    executor: str | Executor = "processes",
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
        pareto: two or more metrics, ``"left/accuracy,right/accuracy"``: static weights are trained, too, and
            the table says whether a method leaves the front of the sum.
        single_task: train each loss alone, too, for the change against single tasks.
        metrics: of a script, as ``"val/accuracy:max"`` or ``"val/rmse:min"``.
        launch: of a script, what goes in front: ``"torchrun --nproc-per-node 4"``.
        arguments: of a script.
        executor: where trials run: "processes" on this machine, "slurm:slurm_partition=gpu:timeout_min=60",
            "ray:address=auto:gpus_per_trial=0.5", or an `Executor`. All keep the same folder.
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
    request = _request(
        problem,
        data=data,
        data_root=data_root,
        options=options,
        scale=scale,
        script=_script(metrics, launch, arguments),
    )
    words = [*request.words, *([] if epochs is None else [f"epochs-{epochs}"])]
    name = "-".join(
        [request.name, *words, *([f"tune-{tune}"] if tune else []), *(["prune"] if prune else [])]
    )
    experiment = Experiment(
        request.source,
        request.methods if methods is None else split_methods(methods),
        choose_seeds(request.seeds if seeds is None else seeds),
        Path("runs") / name if out is None else Path(out),
        tune=tune,
        prune=prune,
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


def reproduce(
    claim: str,
    *,
    scale: str = "small",
    readings: int | str | None = None,
    seeds: int | Sequence[int] | None = None,
    jobs: int | None = None,
    out: str | Path | None = None,
    data: str | None = None,
    data_root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    fast: bool = False,
    retry: bool = False,
    trial_timeout: float | None = None,
    executor: str | Executor = "processes",
    console: Console | None = None,
    command: Sequence[str] = (),
) -> tuple[Verdict, ComparedMethods]:
    """Run a paper's experiment, and judge its claim by a rule that was written beforehand.

    Args: as of `compare`; ``scale`` is smoke, small, or full: the paper's own size. ``readings`` also tries
    other answers to what the paper leaves open: "all" of those that the claim lists, or so many, drawn with a
    fixed seed; the verdict then says under how many the claim holds, and ``readings.html`` draws them.
    """
    from manyloss.lab import claims
    from manyloss.lab.experiment import Experiment
    from manyloss.lab.runs import storage

    chosen = claims.claim_named(claim)
    count = _how_many_readings(chosen, readings)
    request = _request(chosen.recipe, data=data, data_root=data_root, options=options, scale=scale)
    root = Path("runs") / "-".join([chosen.name, *request.words]) if out is None else Path(out)
    claims.check_folder(chosen, root)
    experiment = Experiment(
        request.source,
        chosen.arms,
        choose_seeds(request.seeds if seeds is None else seeds),
        root,
        common={
            "epochs": request.epochs,
            "jobs": jobs,
            "device": device,
            "fast": fast,
            "command": list(command) or [f"lab.reproduce({claim!r}, ...)"],
            "notes": {**request.notes, "claim": chosen.name, "rule": chosen.rule},
        },
    )
    results = run_experiment(
        experiment, retry=retry, timeout=trial_timeout, executor=executor, console=console
    )
    study = experiment.first
    verdict = claims.judge(chosen, study.root, study.problem, scale=scale, seeds=study.seeds)
    if readings is not None:
        tried = _try_readings(
            chosen, verdict, count, experiment, retry=retry, timeout=trial_timeout, executor=executor,
            console=console,
        )  # fmt: skip
        verdict = replace(verdict, readings=tried)
    path = study.root / "claim.json"
    judged = any(finding.outcome != "no result" for finding in verdict.findings)
    if judged:
        storage.write_json(path, claims.record_of(verdict, study.root))
    if console is not None:
        console.print()
        for line in claims.lines_of(verdict):
            console.print(line, style="bold" if line.startswith("Verdict") else "", markup=False)
        if judged:
            console.print(f"\nVerdict and numbers: {path}", markup=False)
    return verdict, results


def _how_many_readings(claim: Claim, asked: int | str | None) -> int | None:
    """How many are to be tried; None for all."""
    from manyloss.lab import claims

    if asked is None or claims.readings_of(claim.name):
        if asked is None or str(asked) == "all":
            return None
        if str(asked).isdecimal() and int(asked) > 0:
            return int(asked)
        raise checks.LabError(
            f"--readings {str(asked)[:60]!r} is not understood. Give how many are to be tried "
            "(--readings 24), or all."
        )
    listed = [name for name in claims.all_claims() if claims.readings_of(name)]
    raise checks.LabError(
        f"The claim {claim.name!r} lists no readings; these do: {', '.join(listed)}. Leave --readings out."
    )


def _try_readings(
    claim: Claim,
    in_force: Verdict,
    count: int | None,
    experiment: Experiment,
    *,
    retry: bool,
    timeout: float | None,
    executor: str | Executor,
    console: Console | None,
) -> Readings:
    """Every chosen reading as a study of its own, in ``readings/`` of the run folder; the first has run."""
    from rich.console import Console

    from manyloss.lab import claims
    from manyloss.lab.claims import readings
    from manyloss.lab.experiment import Experiment
    from manyloss.lab.reports.readings import write_readings
    from manyloss.lab.runs import storage
    from manyloss.lab.runs.progress import display_for
    from manyloss.lab.runs.source import Source

    say, study = console or Console(quiet=True), experiment.first
    opens = claims.readings_of(claim.name)
    wanted = readings.chosen(opens, count)
    found = [readings.judged(wanted[0], in_force)]
    for number, settings in enumerate(wanted[1:], start=2):
        options = {name: value for name, value in settings.items() if name != "epochs"}
        source = Source(experiment.source.where, {**experiment.source.options, **options})
        epochs = max(1, round(study.epochs * settings.get("epochs", 1)))
        root = study.root / "readings" / storage.fingerprint(settings)
        claims.check_folder(claim, root)
        notes = {**experiment.common["notes"], "reading": settings}
        common = {**experiment.common, "epochs": epochs, "notes": notes}
        planned = Experiment(source, claim.arms, study.seeds, root, common=common).first
        words = ", ".join(f"{name} {value}" for name, value in settings.items())
        say.print(f"\nReading {number} of {len(wanted)}: {words}", markup=False)
        planned.run(
            display_for(say),
            retry=retry,
            timeout=timeout,
            executor=None if isinstance(executor, str) else executor,
        )
        verdict = claims.judge(claim, root, planned.problem, scale=in_force.scale, seeds=study.seeds)
        found.append(readings.judged(settings, verdict))
    tried = readings.summed_up(opens, found)
    page = write_readings(study.root, claim, tried)
    say.print(f"\nReadings: {page}", markup=False)
    return tried


def board(
    problems: Sequence[str] = (),
    *,
    methods: str | Sequence[str] | None = None,
    tune: int = 8,
    seeds: int | Sequence[int] | None = None,
    scale: str = "",
    jobs: int | None = None,
    out: str | Path = "runs/board",
    data_root: str | Path | None = None,
    retry: bool = False,
    trial_timeout: float | None = None,
    executor: str | Executor = "processes",
    console: Console | None = None,
    command: Sequence[str] = (),
) -> Board:
    """Compare methods on problem after problem, tuned at equal budget, and say if any beats the tuned sum.

    Every problem has a run folder below ``out``, which a later call finishes or adds to, and an entry
    ``out/NAME.json``; ``out/board.html`` shows all entries that are there.

    Args:
        problems: of the board, or any recipe; all of the board's when there are none.
        methods: as of `compare`; the board's own when None.
        tune: settings that each row gets, the weighted sum among them.
        seeds: of the final trials; the problem's own number when None.
        scale: of the problems that have it, such as small.
        jobs: trials at a time.
        out: the folder.
        data_root: the folder of the data sets.
        retry: let crashed trials go on.
        trial_timeout: seconds that one trial may take.
        executor: where trials run.
        console: where to print.
        command: what is written into the reports as the command.

    Raises:
        LabError: as of `compare`; the entries of the problems before are kept.

    """
    from manyloss.lab import problems as on_the_board
    from manyloss.lab.analysis.board import Board, Entry, read_entries
    from manyloss.lab.recipes import recipe_named
    from manyloss.lab.reports.board import write_board

    root = Path(out)
    recipes = [recipe_named(name) for name in dict.fromkeys(problems or on_the_board.problems())]
    for recipe in recipes:
        results = compare(
            recipe.name,
            on_the_board.METHODS if methods is None else methods,
            seeds=seeds,
            jobs=jobs,
            out=root / recipe.name,
            data_root=data_root,
            scale=scale if scale in recipe.scales else None,
            retry=retry,
            trial_timeout=trial_timeout,
            executor=executor,
            tune=tune,
            console=console,
            command=command,
        )
        Entry.of(results, recipe.summary, tune).write(root / f"{recipe.name}.json")
    found = Board.of(read_entries(root))
    page = write_board(root / "board.html", found)
    if console is not None:
        console.print(f"\n{found.verdict}", style="bold", markup=False)
        console.print(f"Board: {page}", markup=False)
    return found


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
    page = _page(Path(run), None if out is None else Path(out), console, smallest)
    results = ComparedMethods.read(Path(run), page, smallest)
    if console is not None:
        _show(results, console)
    return results


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
    from manyloss.lab.runs.study import try_out

    if str(problem).endswith(".jsonl"):
        path = Path(str(problem))
        found = diagnose_records(path, path.parent if out is None else Path(out))
    else:
        script = _script((), launch, arguments)
        request = _request(
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
        elif source.is_file:
            try_out(source.load(), seed)
        folder = Path("runs") / name if out is None else Path(out)
        if console is None:
            return run(source, folder, **settings)
        with console.status("Training with the plain sum") as status:

            def progress(done: float, losses: Mapping[str, float]) -> None:  # noqa: ARG001
                status.update(f"Training with the plain sum, epoch {done:.1f}")

            found = run(source, folder, **settings, progress=progress)
    if console is not None:
        print_diagnosis(found, console)
    return found


# -- what several commands share ----------------------------------------------------------------------------


def run_experiment(
    experiment: Experiment,
    *,
    retry: bool = False,
    timeout: float | None = None,
    executor: str | Executor = "processes",
    console: Console | None = None,
    at_least: float = 0.0,
) -> ComparedMethods:
    """Run what is missing, write the report, then show the table: what cannot be shown is kept."""
    from rich.console import Console
    from rich.markup import escape

    from manyloss.lab.analysis.comparison import ComparedMethods
    from manyloss.lab.runs.execution import FruitlessError
    from manyloss.lab.runs.executors import Lent
    from manyloss.lab.runs.executors.choice import executor_named
    from manyloss.lab.runs.progress import display_for
    from manyloss.lab.runs.timing import time_the_steps

    say = console or Console(quiet=True)
    checks.device(experiment.first.device, fast=experiment.first.fast, needed=experiment.left() > 0)
    _announce(experiment, say)
    # One executor for all parts: idle workers stay, and importing torch takes seconds.
    running: Executor | None = None if isinstance(executor, str) else executor
    try:
        for part, study in experiment.studies():
            missing = study.missing()
            if part and missing:
                say.print(f"[bold]{part}[/]: {_count(len(missing), 'trial')}, in {escape(str(study.root))}")
            if missing and running is None:
                running = executor_named(str(executor), study.jobs, experiment.root)
            lent = None if running is None else Lent(running)
            untried = experiment.untried()
            study.run(display_for(say), retry=retry, timeout=timeout, executor=lent, untried=untried)
    except FruitlessError as error:
        raise experiment.broken(error) from error
    except KeyboardInterrupt:
        say.print(
            f"[yellow]Stopped with {_count(experiment.left(), 'trial')} unfinished. "
            f"Run the same command again: it goes on after the last whole epoch.[/]"
        )
        raise
    finally:
        if running is not None:
            running.close()
    table = experiment.table
    assert table is not None
    if executor == "processes":
        time_the_steps(table)
    page = _page(table.root, None, say, at_least)
    results = ComparedMethods.read(table.root, page, at_least)
    say.print()
    _show(results, say)
    _refuse_metrics_without_a_number(results)
    if experiment.unmet is not None:
        raise experiment.unmet
    return results


def _announce(experiment: Experiment, say: Console) -> None:
    """Try the problem out, and say what will be done, and for about how long."""
    from rich.markup import escape

    from manyloss.lab.runs.progress import duration
    from manyloss.lab.runs.study import try_out

    study = experiment.first
    for remark in experiment.remarks:
        say.print(f"[dim]{escape(remark)}[/]")
    left = experiment.left()
    about = ""
    if left and study.source.script is None:
        fresh = study.source.load()
        if study.source.is_file:
            tried = try_out(fresh, study.seeds[0])
            splits = tried.splits
            say.print(f"[dim]Gradients are measured at {escape(tried.measured_at)}.[/]")
            total = tried.seconds * study.epochs * left / study.jobs
            about = f", about {duration(max(total, 1.0))} or more"
        else:
            splits = fresh.datasets(study.seeds[0])  # data that are not there are said once, before any trial
        warning = study.look_at_the_data(splits, study.seeds[0])
        if warning is not None:
            say.print(f"[yellow]{escape(warning)}[/]")
    epochs = "" if study.source.script is not None else f"{_count(study.epochs, 'epoch')} each, "
    table = experiment.table
    if experiment.tuning is not None:
        rows = len(experiment.tuning.searched)
        planned = (
            f"{_count(rows, 'row')} x {_count(experiment.tune, 'setting')} tried, then "
            f"{_count(rows, 'row')} x {_count(len(experiment.seeds), 'seed')}"
        )
        of_all = f"{_count(left, 'trial')} to run"
    else:
        assert table is not None
        planned = f"{_count(len(table.arms), 'method')} x {_count(len(table.seeds), 'seed')}"
        beside = [
            word
            for word, asked in (
                ("static weights", experiment.pareto),
                ("single losses", experiment.single_task),
            )
            if asked
        ]
        planned += "".join(f" and {word}" for word in beside)
        of_all = (
            f"{_count(left, 'trial')} to run"
            if beside
            else f"{left} of {_count(len(table.trials()), 'trial')} to run"
        )
    say.print(
        f"[bold]{escape(study.problem.name)}[/]: {planned}, {epochs}{of_all}{about}, "
        f"{study.jobs} at a time, in {escape(str(experiment.root))}"
    )


def _show(results: ComparedMethods, console: Console) -> None:
    from rich.markup import escape

    from manyloss.lab.analysis.table import print_table

    print_table(results.table, console)
    for trial in results.run.trials:
        if trial.status in ("crashed", "diverged"):
            log = trial.folder / "log.txt"
            more = f" See {log}." if log.exists() else ""
            label = f"{trial.arm} seed {trial.seed}"
            console.print(f"[red]{escape(f'{label} {trial.status}: {trial.reason}{more}')}[/]")
    if results.report is not None:
        console.print(f"\nReport: {escape(str(results.report))}")


def _page(folder: Path, out: Path | None, console: Console | None, at_least: float) -> Path | None:
    """Write the report; a folder that cannot be written can still be shown."""
    from rich.markup import escape

    from manyloss.lab.reports.page import write_report

    try:
        return write_report(folder, out, at_least)
    except checks.CannotWriteError as error:
        if out is not None or not (folder / "study.json").is_file():
            raise
        if console is not None:
            text = f"No report: {error} `manyloss report {folder} --out FILE` writes it elsewhere."
            console.print(f"[yellow]{escape(text)}[/]")
        return None


def _refuse_metrics_without_a_number(results: ComparedMethods) -> None:
    """A metric that no trial could give a number for is a mistake in the problem."""
    finished = [trial for trial in results.run.trials if trial.status == "finished"]
    for metric in results.run.metrics:
        values = [trial.test[metric.name] for trial in finished if metric.name in trial.test]
        if values and all(value != value for value in values):
            raise checks.metric_is_nan(metric.name, len(values))


@dataclass(frozen=True)
class Request:
    """A source with its defaults, and the words that make its default folder its own."""

    source: Source
    name: str
    methods: Sequence[str] = DEFAULT_METHODS
    seeds: int = DEFAULT_SEEDS
    epochs: int | None = None
    words: Sequence[str] = ()
    notes: dict[str, Any] = field(default_factory=dict)


def _request(
    problem: str | Path | type[Problem],
    *,
    data: str | None,
    data_root: str | Path | None,
    options: Mapping[str, Any] | None,
    scale: str | None,
    script: Any = None,
) -> Request:
    from manyloss.lab.recipes import recipe_named
    from manyloss.lab.runs.source import Source

    options = dict(options or {})
    words = [f"{name}-{value}".replace("/", "-") for name, value in options.items()]
    if data is not None:
        options["data"] = data
    if data_root is not None:
        options["data_root"] = str(Path(data_root).resolve())
    words = [*([] if data is None else [data]), *words]
    where = _file_of(problem) if isinstance(problem, type) else str(problem)
    if where.endswith(".py") or Path(where).is_file():
        path = Path(where).resolve()
        if scale is not None:
            raise checks.not_options(
                path.name, ["scale"], "only recipes have scales. Use --epochs and --seeds."
            )
        if script is not None and options:
            raise checks.not_options(path.name, options, "a script gets its own arguments, behind --.")
        return Request(Source(str(path), options, script=script), path.stem, words=words)
    recipe = recipe_named(where)
    if script is not None:
        raise checks.not_options(f"Recipe {where!r}", ["metric"], "only scripts need it.")
    size = dict(recipe.scales.get(scale, {})) if scale is not None else {}
    if scale is not None:
        if scale not in recipe.scales:
            raise checks.unknown_scale(recipe.name, scale, recipe.scales)
        words.append(scale)
    seeds = size.pop("seeds", recipe.seeds)
    epochs = size.pop("epochs", recipe.epochs)
    notes = {
        "summary": recipe.summary,
        "paper": recipe.paper,
        "departures": list(recipe.departures),
        "scale": scale,
    }
    source = Source(recipe.name, {**size, **options})
    return Request(source, recipe.name, recipe.arms, seeds, epochs, words, notes)


def _file_of(problem: type[Problem]) -> str:
    module = sys.modules.get(problem.__module__)
    file = getattr(module, "__file__", None)
    if file is None:
        raise checks.no_file_of(problem.__name__)
    return str(file)


def _script(metrics: Sequence[str], launch: str, arguments: Sequence[str]) -> Any:
    from manyloss.lab.scripts import ScriptCall

    return ScriptCall.of(metrics, launch, arguments) if metrics or launch or arguments else None


def split_methods(methods: str | Sequence[str]) -> list[str]:
    """The methods of a comma-separated list; commas inside brackets stay."""
    if not isinstance(methods, str):
        return [str(method) for method in methods]
    parts, depth = [""], 0
    for letter in methods:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def choose_seeds(seeds: int | str | Sequence[int]) -> list[int]:
    """``5`` is the seeds 0 to 4; ``0,1,7`` are those three; ``7,`` is the one seed 7."""
    text = seeds if isinstance(seeds, str) else ""
    try:
        if isinstance(seeds, int) or (text and "," not in text):
            count = int(seeds)  # type: ignore[arg-type]
            numbers = list(range(count)) if 1 <= count <= MOST_SEEDS else []
        else:
            parts = [part for part in text.split(",") if part.strip()] if text else seeds
            numbers = [int(part) for part in parts]
    except (ValueError, TypeError):
        numbers = []
    if not numbers or min(numbers) < 0 or max(numbers) >= 2**32 or len(numbers) > MOST_SEEDS:
        raise checks.not_seeds(str(seeds), MOST_SEEDS)
    return numbers


def as_fraction(text: float | str) -> float:
    """``0.005``, ``"0.005"`` and ``"0.5%"`` are the same."""
    try:
        words = str(text).strip()
        value = float(words.removesuffix("%")) / (100 if words.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise checks.not_a_fraction(str(text))
    return value


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
