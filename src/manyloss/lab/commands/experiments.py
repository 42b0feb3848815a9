"""Running what was asked for: what is said before, what is run, and what is shown of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from manyloss.lab import checks
from manyloss.lab.runs.executors.choice import Lending

if TYPE_CHECKING:
    from rich.console import Console

    from manyloss.lab.analysis.comparison import ComparedMethods
    from manyloss.lab.experiment import Experiment
    from manyloss.lab.runs.executors import Executor


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
    with Lending(executor, experiment.root) as lending:
        run_trials(experiment, lending, retry=retry, timeout=timeout, console=console)
    return show_results(experiment, console, at_least)


def run_trials(
    experiment: Experiment,
    lending: Lending,
    *,
    retry: bool = False,
    timeout: float | None = None,
    console: Console | None = None,
) -> None:
    """Run what is missing."""
    from rich.console import Console
    from rich.markup import escape

    from manyloss.lab.runs.execution import FruitlessError
    from manyloss.lab.runs.progress import display_for
    from manyloss.lab.runs.timing import time_the_steps

    say = console or Console(quiet=True)
    left = experiment.left()
    checks.device(experiment.first.device, fast=experiment.first.fast, needed=left > 0)
    with experiment.first.source.on_path():
        _announce(experiment, left, say)
    try:
        for part, study in experiment.studies():
            missing = study.missing()
            if part and missing:
                say.print(f"[bold]{part}[/]: {_counted(len(missing), 'trial')}, in {escape(str(study.root))}")
            lent, untried = lending.to(study, retry=retry), experiment.untried()
            study.run(display_for(say), retry=retry, timeout=timeout, executor=lent, untried=untried)
    except FruitlessError as error:
        raise experiment.broken(error) from error
    except KeyboardInterrupt:
        say.print(
            f"[yellow]Stopped with {_counted(experiment.left(), 'trial')} unfinished. "
            f"Run the same command again: it goes on after the last whole epoch.[/]"
        )
        raise
    table = experiment.table
    assert table is not None
    if lending.asked == "processes":
        with experiment.first.source.on_path():
            time_the_steps(table)


def show_results(experiment: Experiment, console: Console | None, at_least: float = 0.0) -> ComparedMethods:
    """Write the report of what has run, then show the table."""
    from rich.console import Console

    from manyloss.lab.analysis.comparison import ComparedMethods

    say, table = console or Console(quiet=True), experiment.table
    assert table is not None
    page = page_of(table.root, None, say, at_least)
    results = ComparedMethods.read(table.root, page, at_least)
    say.print()
    show(results, say)
    _refuse_metrics_without_a_number(results)
    if experiment.unmet is not None:
        raise experiment.unmet
    return results


def _announce(experiment: Experiment, left: int, say: Console) -> None:
    """Try the problem out, and say what will be done in the trials that are left, and for about how long."""
    from rich.markup import escape

    from manyloss.lab.runs.progress import duration
    from manyloss.lab.runs.tryout import try_out
    from manyloss.lab.tuning import FINALISTS, MORE_SEEDS

    study = experiment.first
    for remark in experiment.remarks:
        say.print(f"[dim]{escape(remark)}[/]")
    if left and study.device == "cpu" and study.notes.get("sized for a GPU"):
        say.print(
            f"[yellow]--scale {study.notes['scale']} of this recipe is sized for a GPU, and takes days "
            "without one. Add --device cuda (--fast trains in bfloat16), or take --scale small.[/]"
        )
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
    epochs = "" if study.source.script is not None else f"{_counted(study.epochs, 'epoch')} each, "
    table = experiment.table
    if experiment.tuning is not None:
        rows, searches = len(experiment.tuning.searched), len(experiment.tuning.searches())
        finalists = f", the best {FINALISTS} with {len(MORE_SEEDS)} more seeds" if experiment.tune > 1 else ""
        planned = (
            f"{_counted(searches, 'row')} x {_counted(experiment.tune, 'setting')} tried{finalists}, then "
            f"{_counted(rows, 'row')} x {_counted(len(experiment.seeds), 'seed')}"
        )
        anew = f" and what is searched anew for {', '.join(experiment.retune)}" if experiment.retune else ""
        of_all = f"{_counted(left, 'trial')}{anew} to run"
    else:
        assert table is not None
        planned = f"{_counted(len(table.arms), 'method')} x {_counted(len(table.seeds), 'seed')}"
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
            f"{_counted(left, 'trial')} to run"
            if beside
            else f"{left} of {_counted(len(table.trials()), 'trial')} to run"
        )
    say.print(
        f"[bold]{escape(study.problem.name)}[/]: {planned}, {epochs}{of_all}{about}, "
        f"{study.jobs} at a time, in {escape(str(experiment.root))}"
    )


def show(results: ComparedMethods, console: Console) -> None:
    """Print the table, what went wrong, and where the report is."""
    from rich.markup import escape

    from manyloss.lab.analysis.terminal import print_table

    print_table(results.table, console)
    for trial in results.run.trials:
        if trial.status in ("crashed", "diverged"):
            log = trial.folder / "log.txt"
            more = f" See {log}." if log.exists() else ""
            label = f"{trial.arm} seed {trial.seed}"
            console.print(f"[red]{escape(f'{label} {trial.status}: {trial.reason}{more}')}[/]")
    if results.report is not None:
        console.print(f"\nReport: {escape(str(results.report))}")


def page_of(folder: Path, out: Path | None, console: Console | None, at_least: float) -> Path | None:
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


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
