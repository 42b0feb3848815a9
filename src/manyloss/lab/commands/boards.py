"""``manyloss board``: problem after problem, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from manyloss.lab.commands.comparisons import compare
from manyloss.lab.commands.packs import start_from_packed

if TYPE_CHECKING:
    from rich.console import Console

    from manyloss.lab.analysis.board import Board
    from manyloss.lab.runs.executors import Executor


def board(
    problems: Sequence[str] = (),
    *,
    methods: str | Sequence[str] | None = None,
    tune: int = 8,
    retune: str | Sequence[str] = (),
    single_task: bool = False,
    seeds: int | Sequence[int] | None = None,
    scale: str = "",
    jobs: int | None = None,
    out: str | Path = "runs/board",
    data_root: str | Path | None = None,
    retry: bool = False,
    trial_timeout: float | None = None,
    executor: str | Executor = "processes",
    start_from: str | Path | None = None,
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
        retune: rows whose settings are searched anew, as of `compare`.
        single_task: train each loss alone, too, where metrics are of one loss, for Delta_m.
        seeds: of the final trials; the problem's own number when None.
        scale: of the problems that have it; papers' recipes are at small without one.
        jobs: trials at a time.
        out: the folder.
        data_root: the folder of the data sets.
        retry: let crashed trials go on.
        trial_timeout: seconds that one trial may take.
        executor: where trials run.
        start_from: a folder of files ``NAME.tar.xz`` that `pack` wrote: a run folder that is not there yet
            starts as what was packed, and only what is missing is run.
        console: where to print.
        command: what is written into the reports as the command.

    Raises:
        LabError: as of `compare`; the entries of the problems before are kept.

    """
    from manyloss.lab import checks
    from manyloss.lab import problems as on_the_board
    from manyloss.lab.analysis.board import Board, Entry, read_entries
    from manyloss.lab.recipes import recipe_named
    from manyloss.lab.reports.board import write_board

    root = Path(out)
    recipes = [recipe_named(name) for name in dict.fromkeys(problems or on_the_board.problems())]
    if start_from is not None and len(recipes) > 1 and Path(start_from).is_file():
        raise checks.LabError(
            f"--start-from {start_from} is the run of one problem, and there are {len(recipes)}. Give the "
            "folder that it is in, or name one problem."
        )
    for recipe in recipes:
        start_from_packed(start_from, root / recipe.name, recipe.name, console)
    for recipe in recipes:
        size = scale or ("" if recipe.name in on_the_board.board_recipes() else on_the_board.SCALE)
        compare_on = partial(
            compare,
            recipe.name,
            on_the_board.METHODS if methods is None else methods,
            seeds=seeds,
            jobs=jobs,
            out=root / recipe.name,
            data_root=data_root if recipe.takes("data_root") else None,
            scale=size if size in recipe.scales else None,
            retry=retry,
            trial_timeout=trial_timeout,
            executor=executor,
            tune=tune,
            retune=retune,
            console=console,
            command=command,
        )
        try:
            results = compare_on(single_task=single_task)
        except checks.NothingAloneError as error:
            if console is not None:
                console.print(f"{recipe.name} is compared without single tasks. {error}", markup=False)
            results = compare_on()
        Entry.of(results, recipe.summary, tune).write(root / f"{recipe.name}.json")
    found = Board.of(read_entries(root))
    page = write_board(root / "board.html", found)
    if console is not None:
        console.print(f"\n{found.verdict}", style="bold", markup=False)
        console.print(f"Board: {page}", markup=False)
    return found
