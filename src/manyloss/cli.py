"""The command ``manyloss``: arguments in, one function of the lab called, tables and errors out."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

from manyloss import __version__

if TYPE_CHECKING:
    from manyloss.lab.analysis.comparison import ComparedMethods

app = typer.Typer(
    name="manyloss",
    help="Train one model on several losses, and find out on your own problem whether a method is worth it.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(name="data", help="Data sets that can be downloaded.", no_args_is_help=True)
app.add_typer(data_app)

STOPPED = 130
BROKEN_PROBLEM = 2
#: Everything was run, but trials crashed.
CRASHED_TRIALS = 3
#: Not empty when ``--traceback`` was given.
_WHOLE_TRACEBACK: list[bool] = []

_Jobs = Annotated[int | None, typer.Option(min=1, help="Trials at a time; default: one per core.")]
_Data = Annotated[str | None, typer.Option(help="Which data, where a recipe has several.")]
_DataRoot = Annotated[Path | None, typer.Option(help="The folder of the data sets.")]
_Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        help="Of the problem (width=16) or a method (gradnorm.alpha=0.5), several times.",
        show_default=False,
    ),
]
_Device = Annotated[str, typer.Option(help="Where to train: cpu or cuda.")]
_Fast = Annotated[
    bool,
    typer.Option("--fast", help="On a GPU: train in bfloat16, channels last and compiled (other numbers)."),
]
_Arguments = Annotated[
    list[str] | None, typer.Argument(help="Of a script, behind --: ... -- --lr 3e-4", show_default=False)
]
_Launch = Annotated[str, typer.Option(help="Of a script, what goes in front: 'torchrun --nproc-per-node 4'.")]
_Seeds = Annotated[str | None, typer.Option(help="How many (5), or which ones (0,1,7).")]
_Retry = Annotated[bool, typer.Option("--retry", help="Let crashed trials go on.")]
_Timeout = Annotated[
    float | None, typer.Option(min=1.0, help="Seconds that one trial may take; it counts as crashed then.")
]
_Executor = Annotated[
    str, typer.Option(help="Where trials run: processes, slurm:slurm_partition=gpu, ray:address=auto.")
]
_StartFrom = Annotated[
    Path | None,
    typer.Option(help="A file that `manyloss pack` wrote, or their folder: only what is missing is run."),
]
_Retune = Annotated[
    str, typer.Option(help="Rows that --tune searches anew, trials kept: gradnorm,tuned sum.")
]
_AtLeast = Annotated[
    str, typer.Option(help="The smallest change that matters, such as 0.5%: a smaller one is no difference.")
]


#: What the parser raises; typer exports this class of its own.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class _TakesScripts(TyperCommand):
    """A command whose unknown options may be a script's: it says where these go."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As every command, with one sentence more."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            if option := getattr(error, "option_name", None):
                where = f"manyloss {self.name} train.py -- {option} ..."
                said = f"{str(error).rstrip('.')}. Arguments of a script go behind --: {where}"
                error.message = said  # type: ignore[attr-defined]
            raise


def main() -> None:
    """The entry point."""
    with _output_that_never_costs_a_result(), _readable_errors():
        app(_traceback_first(sys.argv[1:]))


def _traceback_first(words: list[str]) -> list[str]:
    """``--traceback`` may follow the command, too, where it is added once something failed."""
    end = words.index("--") if "--" in words else len(words)
    wanted = ["--traceback"] if "--traceback" in words[:end] else []
    return [*wanted, *(word for word in words[:end] if word != "--traceback"), *words[end:]]


@contextmanager
def _output_that_never_costs_a_result() -> Iterator[None]:
    """Replace what a terminal cannot print; when stdout is closed or full, go on without it."""
    streams = sys.stdout, sys.stderr
    for stream in streams:
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.stdout, sys.stderr = (None if s is None else _Forgiving(s) for s in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in streams:
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                # Python would complain once more when it flushes at exit.
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Forgiving:
    """A stream that drops what cannot be written: its reader is gone."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _readable_errors() -> Iterator[None]:
    """An error the user can act on is one or two red lines; a bug of ours keeps its traceback."""
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        yield
    except KeyboardInterrupt:
        errors.print("[yellow]Stopped.[/]")
        sys.exit(STOPPED)
    except Exception as error:
        # Here, since --help and completion need no torch; what raises a LabError has imported it.
        from manyloss.lab.checks import BrokenProblemError, BrokenScriptError, LabError

        if not isinstance(error, LabError):
            raise
        if not isinstance(error, BrokenProblemError | BrokenScriptError):
            errors.print(f"[red]{escape(str(error))}[/]")
            sys.exit(1)
        first, _, rest = str(error).partition("\n")
        if isinstance(error, BrokenProblemError):
            every = "".join(traceback.format_exception(error.__cause__ or error))
            rest = every if _WHOLE_TRACEBACK else f"{rest}\nEvery frame: the same command with --traceback."
        errors.print(f"[red]{escape(first)}[/]")
        errors.print(rest, markup=False)
        sys.exit(BROKEN_PROBLEM)


def _exit_code(results: ComparedMethods, crashed_besides: int = 0) -> int:
    """0; 1 when no trial finished; its own code when trials crashed, of the table or ``besides``."""
    ended = [trial.status for trial in results.run.trials]
    if "finished" not in ended:
        return 1
    return CRASHED_TRIALS if "crashed" in ended or crashed_besides else 0


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"manyloss {__version__}")
        raise typer.Exit


@app.callback()
def options(
    whole: Annotated[
        bool, typer.Option("--traceback", help="Show all frames of an error of your problem, not yours only.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Set what holds for every command."""
    del version  # said by its callback
    _WHOLE_TRACEBACK[:] = [whole] if whole else []


@app.command()
def recipes() -> None:
    """List the papers' experiments, and the problems of the board."""
    from manyloss.lab.problems import board_recipes
    from manyloss.lab.recipes import all_recipes

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("recipe", "what it shows", "paper"):
        table.add_column(title, no_wrap=title == "recipe")
    for recipe in (*all_recipes().values(), *board_recipes().values()):
        table.add_row(escape(recipe.name), escape(recipe.summary), escape(recipe.paper))
    console = Console()
    console.print(table)
    console.print("\nRun one with: manyloss compare RECIPE, or your own with: manyloss compare my_problem.py")


@app.command(cls=_TakesScripts)
def compare(
    problem: Annotated[
        str,
        typer.Argument(help="A recipe (see `manyloss recipes`), a file with your Problem, or your script."),
    ],
    arguments: _Arguments = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Comma-separated, with options: equal,gradnorm:alpha=0.5,single,graddrop:k=0.5"),
    ] = None,
    seeds: _Seeds = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs per trial.")] = None,
    jobs: _Jobs = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; default: runs/NAME.")] = None,
    data: _Data = None,
    data_root: _DataRoot = None,
    option: _Options = None,
    scale: Annotated[
        str | None,
        typer.Option(
            help="A recipe's size: smoke, small, medium or full; default: the recipe's own (its docstring)."
        ),
    ] = None,
    device: _Device = "cpu",
    fast: _Fast = False,
    retry: _Retry = False,
    trial_timeout: _Timeout = None,
    at_least: _AtLeast = "0",
    tune: Annotated[
        int,
        typer.Option(
            min=0,
            help="Try so many settings of every method and of the sum; fresh seeds compare the best.",
        ),
    ] = 0,
    prune: Annotated[
        bool, typer.Option("--prune", help="Stop a tried setting that is behind the median of those before.")
    ] = False,
    retune: _Retune = "",
    pareto: Annotated[
        str,
        typer.Option(
            help="Metrics, such as left/accuracy,right/accuracy: does a method leave the sum's front?"
        ),
    ] = "",
    single_task: Annotated[
        bool,
        typer.Option("--single-task", help="Train each loss alone, too, and show the change against it."),
    ] = False,
    executor: _Executor = "processes",
    start_from: _StartFrom = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Of a script, several times: val/accuracy:max or val/rmse:min."),
    ] = None,
    launch: _Launch = "",
) -> None:
    """Compare methods on a recipe, your problem or your script; run it again to finish what is missing."""
    from manyloss import lab

    results = lab.compare(
        problem,
        methods,
        seeds=None if seeds is None else lab.choose_seeds(seeds),
        epochs=epochs,
        jobs=jobs,
        out=out,
        data=data,
        data_root=data_root,
        options=_options(option),
        scale=scale,
        device=device,
        fast=fast,
        retry=retry,
        trial_timeout=trial_timeout,
        executor=executor,
        start_from=start_from,
        at_least=at_least,
        tune=tune,
        prune=prune,
        retune=retune,
        pareto=pareto,
        single_task=single_task,
        metrics=metric or (),
        launch=launch,
        arguments=arguments or (),
        console=Console(highlight=False),
        command=["manyloss", *sys.argv[1:]],
    )
    sys.exit(_exit_code(results))


def _options(given: list[str] | None) -> dict[str, Any]:
    """``["width=16"]`` -> ``{"width": 16}``."""
    from manyloss.catalog import value_of
    from manyloss.lab.checks import LabError

    found = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise LabError(f"--option {text!r} is not understood. Write it as --option width=16.")
        found[name.replace("-", "_")] = value_of(value)
    return found


@app.command()
def reproduce(
    claim: Annotated[str | None, typer.Argument(help="Which claim; without one they are listed.")] = None,
    scale: Annotated[
        str,
        typer.Option(help="smoke, small, or full: the paper's own size; some have medium, for a GPU."),
    ] = "small",
    readings: Annotated[
        str | None,
        typer.Option(
            help="Also try other answers to what the paper leaves open: how many, or all.",
            metavar="N",
        ),
    ] = None,
    reading_seeds: Annotated[
        int | None,
        typer.Option(help="How many of the seeds each reading is judged with; default: all.", min=1),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; default: runs/CLAIM-SCALE.")] = None,
    data: _Data = None,
    data_root: _DataRoot = None,
    option: _Options = None,
    seeds: _Seeds = None,
    jobs: _Jobs = None,
    device: _Device = "cpu",
    fast: _Fast = False,
    retry: _Retry = False,
    trial_timeout: _Timeout = None,
    executor: _Executor = "processes",
    start_from: _StartFrom = None,
) -> None:
    """Run a paper's experiment, and say by a rule written beforehand whether its claim holds."""
    from manyloss import lab
    from manyloss.lab import claims

    console = Console(highlight=False)
    if claim is None:
        for known in claims.all_claims().values():
            console.print(
                f"[bold]{escape(known.name)}[/]\n  {escape(known.claim)}\n  [dim]{escape(known.paper)}[/]"
            )
        console.print("\nRun one with: manyloss reproduce CLAIM --scale small")
        return
    verdict, results = lab.reproduce(
        claim,
        scale=scale,
        readings=readings,
        reading_seeds=reading_seeds,
        seeds=None if seeds is None else lab.choose_seeds(seeds),
        jobs=jobs,
        out=out,
        data=data,
        data_root=data_root,
        options=_options(option),
        device=device,
        fast=fast,
        retry=retry,
        trial_timeout=trial_timeout,
        executor=executor,
        start_from=start_from,
        console=console,
        command=["manyloss", *sys.argv[1:]],
    )
    sys.exit(_exit_code(results, 0 if verdict.readings is None else verdict.readings.crashed))


@app.command()
def board(
    problems: Annotated[
        list[str] | None, typer.Argument(help="Of the board, or any recipe; default: all of the board.")
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Comma-separated; default: the board's own.")] = None,
    tune: Annotated[int, typer.Option(min=0, help="Settings that each row gets, the sum among them.")] = 8,
    retune: _Retune = "",
    single_task: Annotated[
        bool,
        typer.Option("--single-task", help="Train each loss alone, too, where metrics are of one loss."),
    ] = False,
    seeds: _Seeds = None,
    scale: Annotated[str, typer.Option(help="Of the problems that have it; papers' recipes: small.")] = "",
    jobs: _Jobs = None,
    out: Annotated[Path, typer.Option(help="The folder of all entries and run folders.")] = Path(
        "runs/board"
    ),
    data_root: _DataRoot = None,
    retry: _Retry = False,
    trial_timeout: _Timeout = None,
    executor: _Executor = "processes",
    start_from: _StartFrom = None,
) -> None:
    """Does anything beat a tuned sum? Compare on problem after problem; run it again to finish or add."""
    from manyloss import lab

    lab.board(
        problems or (),
        methods=methods,
        tune=tune,
        retune=retune,
        single_task=single_task,
        seeds=None if seeds is None else lab.choose_seeds(seeds),
        scale=scale,
        jobs=jobs,
        out=out,
        data_root=data_root,
        retry=retry,
        trial_timeout=trial_timeout,
        executor=executor,
        start_from=start_from,
        console=Console(highlight=False),
        command=["manyloss", *sys.argv[1:]],
    )


@app.command()
def pack(
    run: Annotated[Path, typer.Argument(help="A run folder; of a board, a problem's.")],
    out: Annotated[Path | None, typer.Option(help="The file; default: RUN.tar.xz beside the folder.")] = None,
) -> None:
    """Write what a run folder knows into a small file, from which others go on with --start-from."""
    from manyloss import lab

    lab.pack(run, out, console=Console(highlight=False))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder that `manyloss compare --out` wrote to.")],
    out: Annotated[Path | None, typer.Option(help="The page's file; default: report.html in RUN.")] = None,
    at_least: _AtLeast = "0",
) -> None:
    """Print the table of a run and write its report.html; nothing is trained."""
    from manyloss import lab

    lab.report(run, out=out, at_least=at_least, console=Console(highlight=False))


@app.command(cls=_TakesScripts)
def diagnose(
    problem: Annotated[
        str,
        typer.Argument(
            help="A recipe, a file with your Problem, your script, or the .jsonl file of a ConflictRecorder."
        ),
    ],
    arguments: _Arguments = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How many to train; default: at most 3.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of initial weights and data order.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write to; default: runs/diagnose-NAME.")
    ] = None,
    data: _Data = None,
    data_root: _DataRoot = None,
    option: _Options = None,
    scale: Annotated[str | None, typer.Option(help="A recipe's size: smoke, small, medium or full.")] = None,
    device: _Device = "cpu",
    layers: Annotated[bool, typer.Option(help="Also look at the encoder's layers.")] = True,
    launch: _Launch = "",
) -> None:
    """Say in words whether the losses conflict, where, and whether it is worth doing something."""
    from manyloss import lab

    lab.diagnose(
        problem,
        epochs=epochs,
        seed=seed,
        out=out,
        data=data,
        data_root=data_root,
        options=_options(option),
        scale=scale,
        device=device,
        layers=layers,
        launch=launch,
        arguments=arguments or (),
        console=Console(highlight=False),
    )


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
