"""The command ``manyloss``: arguments in, lab called, tables and errors out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from manyloss.lab.runs.study import Study

app = typer.Typer(
    name="manyloss",
    help="Train one model on several losses, and find out on your own problem whether a method is worth it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(name="data", help="Data sets that can be downloaded.", no_args_is_help=True)
app.add_typer(data_app)

STOPPED = 130
BROKEN_PROBLEM = 2


def main() -> None:
    """The entry point."""
    with _readable_errors():
        app()


@contextmanager
def _readable_errors() -> Iterator[None]:
    """An error the user can act on is one or two red lines; a bug of ours keeps its traceback."""
    from manyloss.lab.checks import BrokenProblemError, LabError

    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        yield
    except BrokenProblemError as error:
        first, _, rest = str(error).partition("\n")
        errors.print(f"[red]{escape(first)}[/]")
        errors.print(rest, markup=False)
        sys.exit(BROKEN_PROBLEM)
    except LabError as error:
        errors.print(f"[red]{escape(str(error))}[/]")
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("[yellow]Stopped.[/]")
        sys.exit(STOPPED)
    except BrokenPipeError:
        # The reader has gone (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@app.command()
def recipes() -> None:
    """List the papers' experiments."""
    from manyloss.lab.recipes import all_recipes

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("recipe", "what it shows", "paper"):
        table.add_column(title, no_wrap=title == "recipe")
    for recipe in all_recipes().values():
        table.add_row(escape(recipe.name), escape(recipe.summary), escape(recipe.paper))
    console = Console()
    console.print(table)
    console.print("\nRun one with: manyloss compare RECIPE, or your own with: manyloss compare my_problem.py")


@app.command()
def compare(
    recipe_or_file: Annotated[
        str, typer.Argument(help="A recipe (see `manyloss recipes`) or a file with your Problem.")
    ],
    methods: Annotated[
        str | None,
        typer.Option(help="Comma-separated, with options: equal,gradnorm:alpha=0.5,single,graddrop:k=0.5"),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="How many (5), or which ones (0,1,7).")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs per trial.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Trials at a time; default: one per core.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; default: runs/NAME.")] = None,
    data: Annotated[str | None, typer.Option(help="Which data, where a recipe has several.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="The folder of the data sets.")] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            help="A recipe's size: smoke, small or full; default: the recipe's own, see its docstring."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu or cuda.")] = "cpu",
    retry: Annotated[bool, typer.Option("--retry", help="Let crashed trials go on.")] = False,
) -> None:
    """Compare methods on a recipe or on your own problem; run it again to finish what is missing."""
    from manyloss.lab.runs.study import Study

    request = _request(recipe_or_file, data=data, data_root=data_root, scale=scale)
    chosen_epochs = epochs if epochs is not None else request["epochs"]
    default_folder = Path("runs") / "-".join(
        [request["name"], *request["words"], *([] if epochs is None else [f"epochs-{epochs}"])]
    )
    study = Study.plan(
        request["source"],
        _split(methods) if methods is not None else request["methods"],
        _seeds(seeds) if seeds is not None else list(range(request["seeds"])),
        default_folder if out is None else out,
        epochs=chosen_epochs,
        jobs=jobs,
        device=device,
        command=["manyloss", *sys.argv[1:]],
        notes=request["notes"],
    )
    if _run(study, retry=retry) == len(study.trials()):
        sys.exit(1)


@app.command()
def reproduce(
    claim: Annotated[str | None, typer.Argument(help="Which claim; without one they are listed.")] = None,
    scale: Annotated[str, typer.Option(help="smoke, small, or full: the paper's own size.")] = "small",
    out: Annotated[Path | None, typer.Option(help="The run folder; default: runs/CLAIM-SCALE.")] = None,
    data: Annotated[str | None, typer.Option(help="Which data, where a recipe has several.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="The folder of the data sets.")] = None,
    seeds: Annotated[str | None, typer.Option(help="How many (5), or which ones (0,1,7).")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Trials at a time; default: one per core.")] = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu or cuda.")] = "cpu",
    retry: Annotated[bool, typer.Option("--retry", help="Let crashed trials go on.")] = False,
) -> None:
    """Run a paper's experiment, and say by a rule written beforehand whether its claim holds."""
    from manyloss.lab import claims
    from manyloss.lab.runs import storage
    from manyloss.lab.runs.study import Study

    console = Console(highlight=False)
    if claim is None:
        for known in claims.all_claims().values():
            console.print(
                f"[bold]{escape(known.name)}[/]\n  {escape(known.claim)}\n  [dim]{escape(known.paper)}[/]"
            )
        console.print("\nRun one with: manyloss reproduce CLAIM --scale small")
        return
    chosen = claims.claim_named(claim)
    request = _request(chosen.recipe, data=data, data_root=data_root, scale=scale)
    root = out or Path("runs") / "-".join([chosen.name, *request["words"]])
    claims.check_folder(chosen, root)
    study = Study.plan(
        request["source"],
        chosen.arms,
        _seeds(seeds) if seeds is not None else list(range(request["seeds"])),
        root,
        epochs=request["epochs"],
        jobs=jobs,
        device=device,
        command=["manyloss", *sys.argv[1:]],
        notes={**request["notes"], "claim": chosen.name, "rule": chosen.rule},
    )
    failed = _run(study, retry=retry)
    verdict = claims.judge(chosen, study.root, study.problem, scale=scale, seeds=study.seeds)
    console.print()
    for line in claims.lines_of(verdict):
        console.print(escape(line), style="bold" if line.startswith("Verdict") else "")
    if any(finding.outcome != "no result" for finding in verdict.findings):
        path = study.root / "claim.json"
        storage.write_json(path, claims.record_of(verdict, study.root))
        console.print(f"\nVerdict and numbers: {escape(str(path))}")
    if failed == len(study.trials()):
        sys.exit(1)


def _run(study: Study, *, retry: bool) -> int:
    """Run what is missing, print the table and write the report; how many trials failed."""
    from manyloss.lab import checks
    from manyloss.lab.analysis import table
    from manyloss.lab.reports.page import write_report
    from manyloss.lab.runs.progress import display_for
    from manyloss.lab.runs.study import try_out

    console = Console(highlight=False)
    checks.device(study.device)
    for remark in study.remarks:
        console.print(f"[dim]{escape(remark)}[/]")
    missing = study.missing()
    if missing:
        fresh = study.source.load()
        if study.source.is_file:
            try_out(fresh, study.seeds[0])
        else:
            fresh.datasets(study.seeds[0])  # data that are not there are said once, before any trial
    console.print(
        f"[bold]{escape(study.problem.name)}[/]: {_count(len(study.arms), 'method')} x "
        f"{_count(len(study.seeds), 'seed')}, {_count(study.epochs, 'epoch')} each, "
        f"{len(missing)} of {_count(len(study.trials()), 'trial')} to run, "
        f"{study.jobs} at a time, in {escape(str(study.root))}"
    )
    try:
        study.run(display_for(console), retry=retry)
    except KeyboardInterrupt:
        left = len(study.missing())
        console.print(
            f"[yellow]Stopped with {_count(left, 'trial')} unfinished. "
            f"Run the same command again: it goes on after the last whole epoch.[/]"
        )
        sys.exit(STOPPED)
    console.print()
    table.print_table(table.read_table(study.root), console)
    failures = study.failures()
    for spec, result in failures:
        log = spec.folder / "log.txt"
        more = f" See {log}." if log.exists() else ""
        console.print(
            f"[red]{escape(spec.label)} {result['status']}: {escape(str(result['reason']))}{more}[/]"
        )
    console.print(f"\nReport: {escape(str(write_report(study.root)))}")
    return len(failures)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder that `manyloss compare --out` wrote to.")],
) -> None:
    """Print the table of a run and write its report.html; nothing is trained."""
    from manyloss.lab.analysis import table
    from manyloss.lab.reports.page import write_report

    console = Console(highlight=False)
    table.print_table(table.read_table(run), console)
    console.print(f"\nReport: {escape(str(write_report(run)))}")


@app.command()
def diagnose(
    recipe_or_file: Annotated[
        str,
        typer.Argument(help="A recipe, a file with your Problem, or the .jsonl file of a ConflictRecorder."),
    ],
    epochs: Annotated[int | None, typer.Option(min=1, help="How many to train; default: at most 3.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of initial weights and data order.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write to; default: runs/diagnose-NAME.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Which data, where a recipe has several.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="The folder of the data sets.")] = None,
    scale: Annotated[str | None, typer.Option(help="A recipe's size: smoke, small or full.")] = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu or cuda.")] = "cpu",
    layers: Annotated[bool, typer.Option(help="Also look at the encoder's layers.")] = True,
) -> None:
    """Say in words whether the losses conflict, where, and whether it is worth doing something."""
    from manyloss.lab.diagnosis import diagnose_problem, diagnose_records, print_diagnosis
    from manyloss.lab.runs.study import try_out

    console = Console(highlight=False)
    if recipe_or_file.endswith(".jsonl"):
        path = Path(recipe_or_file)
        print_diagnosis(diagnose_records(path, path.parent if out is None else out), console)
        return
    request = _request(recipe_or_file, data=data, data_root=data_root, scale=scale)
    folder = Path("runs") / "-".join(["diagnose", request["name"], *request["words"]]) if out is None else out
    if request["source"].is_file:
        try_out(request["source"].load(), seed)
    with console.status("Training with the plain sum") as status:

        def progress(done: float, losses: Any) -> None:  # noqa: ARG001
            status.update(f"Training with the plain sum, epoch {done:.1f}")

        found = diagnose_problem(
            request["source"],
            folder,
            epochs=epochs,
            seed=seed,
            device=device,
            layers=layers,
            progress=progress,
        )
    print_diagnosis(found, console)


@app.command()
def bench(
    benchmarks: Annotated[
        list[str] | None, typer.Argument(help="Which ones; all of benchmarks/ without any.")
    ] = None,
) -> None:
    """Measure speed and memory, next to peers; the figures of docs/benchmarks.md come from here."""
    from manyloss.lab.benchmarks import RESULTS, run

    console = Console(highlight=False)
    for figure in run(benchmarks or ()):
        text = "  ".join(f"{name} {value}" for name, value in figure.items() if name != "benchmark")
        console.print(f"[bold]{escape(figure['benchmark'])}[/]  {escape(text)}")
    console.print(f"\nKept in {escape(str(RESULTS))}")


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="mnist or cifar10")],
    data_root: Annotated[
        Path | None, typer.Option(help="The data folder; default: $MANYLOSS_DATA or ./data.")
    ] = None,
) -> None:
    """Download a data set and verify it; what is there already is kept."""
    from rich.progress import DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from manyloss.lab.datasets import download

    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"), DownloadColumn(), TimeRemainingColumn(), console=console
    )
    tasks: dict[str, TaskID] = {}

    def progress(file: str, here: int, whole: int | None) -> None:
        if file not in tasks:
            tasks[file] = bars.add_task(file, total=whole)
        bars.update(tasks[file], completed=here, total=whole)

    with bars:
        folder = download.get(name, data_root, progress=progress)
    Console().print(f"{name} is in {folder}", highlight=False, soft_wrap=True)


# -- from arguments to what the lab takes -----------------------------------------------------------------


def _request(
    recipe_or_file: str, *, data: str | None, data_root: Path | None, scale: str | None
) -> dict[str, Any]:
    """The source, its defaults, and the words that make its default folder its own."""
    from manyloss.lab import checks
    from manyloss.lab.recipes import recipe_named
    from manyloss.lab.runs.source import Source

    options: dict[str, Any] = {}
    if data is not None:
        options["data"] = data
    if data_root is not None:
        options["data_root"] = str(data_root.resolve())
    words = [] if data is None else [data]
    if recipe_or_file.endswith(".py") or Path(recipe_or_file).is_file():
        path = Path(recipe_or_file).resolve()
        if scale is not None:
            raise checks.not_options(
                path.name, ["scale"], "only recipes have scales. Use --epochs and --seeds."
            )
        return {
            "source": Source(str(path), options),
            "name": path.stem,
            "methods": ["equal", "gradnorm", "graddrop", "pcgrad", "mgda", "cosreg"],
            "seeds": 5,
            "epochs": None,
            "words": words,
            "notes": {},
        }
    recipe = recipe_named(recipe_or_file)
    size = dict(recipe.scales.get(scale, {})) if scale is not None else {}
    if scale is not None:
        if scale not in recipe.scales:
            raise checks.unknown_scale(recipe.name, scale, recipe.scales)
        words.append(scale)
    seeds = size.pop("seeds", recipe.seeds)
    epochs = size.pop("epochs", recipe.epochs)
    return {
        "source": Source(recipe.name, {**size, **options}),
        "name": recipe.name,
        "methods": list(recipe.arms),
        "seeds": seeds,
        "epochs": epochs,
        "words": words,
        "notes": {
            "summary": recipe.summary,
            "paper": recipe.paper,
            "departures": list(recipe.departures),
            "scale": scale,
        },
    }


def _split(text: str) -> list[str]:
    """The methods of a comma-separated list; commas inside brackets stay."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _seeds(text: str) -> list[int]:
    """``5`` is the seeds 0 to 4; ``0,1,7`` are those three; ``7,`` is the one seed 7."""
    from manyloss.lab import checks

    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or ("," not in text and numbers[0] < 1):
        raise checks.not_seeds(text)
    return numbers if "," in text else list(range(numbers[0]))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
