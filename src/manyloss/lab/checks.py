"""Every error text of the lab: each names the thing, what was received and the way out."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path

import torch

from manyloss.lab.printing import printable


class LabError(Exception):
    """An error the user can act on: the command line prints its text in red, without a traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class StorageError(LabError):
    """The run folder cannot be read or written: the study stops, whatever trial noticed it."""


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


def missing_data(name: str, folders: Iterable[object]) -> DataError:
    """A recipe reads a data set that is in none of the places looked at."""
    places = ", ".join(str(folder) for folder in folders)
    return DataError(
        f"{name} is in none of {places}. Run `manyloss data get {name}`, or name the folder with --data-root."
    )


def damaged_data(path: object, reason: str) -> DataError:
    """A file of a data set is there but cannot be read."""
    return DataError(f"{path} is damaged: {reason}. Delete it and get it again.")


def unknown_arm(text: str, name: str, known: Iterable[str]) -> LabError:
    """There is no method or arm of this name."""
    return LabError(f"There is no method {name!r} (in {text!r}). {closest(name, known)}")


def no_torchjd(text: str) -> LabError:
    """A method of TorchJD without TorchJD."""
    return LabError(f"{text!r} needs TorchJD: pip install 'manyloss[peers]'.")


def unknown_option(arm: str, option: str, known: Iterable[str]) -> LabError:
    """An arm has no such option."""
    return LabError(f"Method {arm!r} has no option {option!r}. {closest(option, known)}")


def refused_options(arm: str, error: Exception) -> LabError:
    """The method itself refused a value."""
    return LabError(f"Method {arm!r} cannot be built: {error}")


def unknown_attribute(arm: str, attribute: str, problem: object) -> LabError:
    """An arm changes an attribute that its problem does not have."""
    known = [name for name in dir(problem) if not name.startswith("_")]
    return LabError(
        f"Arm {arm!r} changes {attribute!r}, which {type(problem).__name__} does not have. "
        f"{closest(attribute, known)} Give the class an attribute of this name, with its default."
    )


# -- run folders read back (results.py, report.py) ----------------------------------------------------------


def no_run_folder(folder: Path) -> LabError:
    """The run folder is not there."""
    return LabError(
        f"There is no folder {str(folder)!r}. Give the folder that `manyloss compare ... --out` wrote to."
    )


def not_a_run_folder(folder: Path) -> LabError:
    """The folder is there but holds no study."""
    return LabError(
        f"{str(folder)!r} is not a run folder: it has no study.json. "
        f"Give the folder that `manyloss compare ... --out` wrote to."
    )


def run_of_other_format(path: Path, found: object, known: int) -> LabError:
    """The run folder was written by another version of manyloss."""
    return LabError(
        f"{str(path)!r} has format {found!r}; this version of manyloss reads format {known}. "
        f"Read it with the version that wrote it, or run the study again in a new folder."
    )


# -- run folders ------------------------------------------------------------------------------------------


def cannot_write(path: Path, error: OSError) -> StorageError:
    """The system refused to write: no room, no permission, not a folder."""
    ways = {
        errno.ENOSPC: "Free some space",
        errno.EDQUOT: "Free some space",
        errno.EACCES: "Give write permission, or choose another folder with --out",
        errno.EPERM: "Give write permission, or choose another folder with --out",
        errno.EROFS: "Choose another folder with --out",
        errno.ENOTDIR: "Choose another folder with --out",
        errno.EEXIST: "Choose another folder with --out",
        errno.EFBIG: "Raise the limit of the size of files",
        errno.ELOOP: "A link is in its place: remove it",
    }
    way = ways.get(error.errno or 0, "Put this right")
    return StorageError(
        f"Cannot write {path}: {error.strerror or error}. {way}, then run the same command again: "
        f"finished trials are kept."
    )


def cannot_read(path: Path, error: OSError) -> StorageError:
    """The system refused to read."""
    return StorageError(f"Cannot read {path}: {error.strerror or error}.")


def damaged(path: Path, error: Exception) -> StorageError:
    """A file of a run folder is not what was written there."""
    whole = path.name == "study.json"
    what = f"the file {path}" if whole else f"the folder {path.parent}"
    rest = "the trials are found again" if whole else "that trial starts again, the others are kept"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return StorageError(
        f"{path} is damaged ({reason}). Delete {what} and run the same command again: {rest}."
    )


def not_plain(where: str, value: object) -> LabError:
    """Something that a checkpoint cannot hold: reading it back would run code."""
    return LabError(
        f"A checkpoint holds tensors and plain data only, but the training's state has a "
        f"{type(value).__name__} at {where}. Give what holds it (a scheduler, an optimiser) a state_dict "
        "without it."
    )


def checkpoint_of_other_settings(path: Path) -> StorageError:
    """A settings.json was deleted or replaced beside a checkpoint that was made under others."""
    return StorageError(
        f"{path} was made with other settings than those beside it. Delete the folder {path.parent} to train "
        f"this trial from the start, and run the same command again: the others are kept."
    )


def in_use(folder: Path) -> StorageError:
    """Another process is writing here."""
    return StorageError(
        f"Another run is writing to {folder}. Wait for it to end, or choose another folder with --out."
    )


def occupied(folder: Path) -> StorageError:
    """A folder to write to holds something else."""
    return StorageError(f"{folder} has other files and no study.json. Choose a new folder with --out.")


def other_settings(path: Path, differences: Iterable[str]) -> StorageError:
    """The folder was made with other settings."""
    folder = path.parent if path.name == "settings.json" else path
    return StorageError(
        f"{folder} was made with other settings: {'; '.join(differences)}. "
        f"Choose another folder with --out, or delete the folder {folder} to start again."
    )


# -- trials -----------------------------------------------------------------------------------------------


def not_a_number(metric: str, value: object) -> LabError:
    """A metric's value is not one number."""
    return LabError(
        f"Metric {metric!r} gave {type(value).__name__} {str(value)[:60]!r}, not one number. "
        f'Set it up to average (`average="macro"`), or split it into several metrics.'
    )


def empty_split(problem: str, split: str) -> LabError:
    """There is nothing to train or to evaluate on."""
    return LabError(
        f"{problem}: the {split} split is empty. `datasets(seed)` must give at least one example."
    )


def only_a_prerequisite(arm: str) -> LabError:
    """A shared arm was asked for as a row."""
    return LabError(
        f"Method {arm!r} is trained when other methods need it and is not compared itself. Leave it out."
    )


def lost_prerequisite(arm: str, needed: str, seed: int, how: str) -> LabError:
    """An arm needs the result of a trial that did not finish."""
    return LabError(f"{arm!r} needs the trial {needed!r} of seed {seed}, which {how}.")


# -- problem files ----------------------------------------------------------------------------------------


class BrokenProblemError(LabError):
    """The user's own code failed: the text is its traceback, without the lab's frames."""


def metric_without_target(name: str, key: str, targets: Iterable[str]) -> LabError:
    """A metric would never be fed: nan in every table."""
    task = name.partition("/")[0]
    return LabError(
        f"metrics has {key!r}, but the targets of a batch have no {task!r}: {', '.join(targets) or 'none'}. "
        "Give metric and target the same name, or write update_metrics."
    )


def not_for_scripts(method: str) -> LabError:
    """A method that changes the problem itself, or needs other trials."""
    return LabError(
        f"Method {method!r} cannot be given to a script: it changes the model or the data, or reads other "
        "trials. Write a Problem for it (docs/lab.md), or leave it out."
    )


def not_a_metric(text: str) -> LabError:
    """``--metric`` was not understood."""
    return LabError(
        f"--metric {text!r} is not understood. Give the name that lab.log uses, and which direction is "
        "better: --metric val/accuracy:max or --metric val/rmse:min."
    )


def no_metric(file: str) -> LabError:
    """A script without a word on what is to be compared."""
    return LabError(
        f"{file} is a script: say what is to be compared, with --metric val/accuracy:max, or with "
        'lab.metric("val/accuracy", higher_is_better=True) in the script.'
    )


def not_logged(name: str, logged: Iterable[str]) -> LabError:
    """The script never logged a metric that was asked for."""
    names = list(logged)
    said = f"it logged {', '.join(names)}" if names else "it logged nothing"
    return LabError(f"the script never called lab.log with {name!r}: {said}. {closest(name, names)}")


def cannot_launch(program: str, error: OSError) -> LabError:
    """What should go in front of the script is not there."""
    return LabError(f"{program!r} cannot be run: {error.strerror or error}. Look at --launch.")


def no_file_of(name: str) -> LabError:
    """A class that stands in no file: other processes cannot load it."""
    return LabError(
        f"The class {name} is not in a file, so the trials' processes cannot load it. Put it into a file, "
        "and give that file or the class imported from it."
    )


def metric_is_nan(name: str, trials: int) -> LabError:
    """No trial has a number for this metric."""
    return LabError(
        f"Metric {name!r} is nan on the test split of all {trials} finished trials: there is nothing to "
        "compare. Look at its targets (none there, or one class only?) and at its settings."
    )


def described(value: object) -> str:
    """A value in a few words: its type, and what is inside."""
    kind = type(value).__name__
    if isinstance(value, torch.Tensor):
        return f"a {kind} {list(value.shape)}"
    if isinstance(value, dict):
        return f"a {kind} of {', '.join(map(repr, list(value)[:4])) or 'nothing'}"
    if isinstance(value, tuple | list):
        return f"a {kind} of {len(value)}: {', '.join(type(item).__name__ for item in value[:4])}"
    return f"a {kind}"


def not_splits(problem: str, found: object) -> LabError:
    """``datasets`` returned something else."""
    return LabError(
        f"{problem}: datasets(seed) returned {described(found)}. Return Splits(train, validation, test), "
        "each with a length and samples (input, {task: target})."
    )


def not_a_sample(problem: str, found: object) -> LabError:
    """A split's item is not a pair."""
    return LabError(
        f"{problem}: a sample of a split is {described(found)}. It may be a pair (input, {{task: target}}); "
        "for anything else write collate_fn(samples), which makes inputs and {task: target} of a list."
    )


def target_is_none(problem: str, task: str) -> LabError:
    """Torch cannot stack None."""
    return LabError(
        f"{problem}: the target of {task!r} is None in a sample, which cannot be stacked. Write "
        "collate_fn(samples), or mark missing labels by a number and leave them out in compute_losses."
    )


def not_a_batch(problem: str, found: object) -> LabError:
    """``collate_fn`` or a split's ``batch`` returned something else."""
    return LabError(
        f"{problem}: a batch is {described(found)}. It must be a pair (inputs, {{task: targets}})."
    )


def not_outputs(problem: str, found: object) -> LabError:
    """A model returned something else."""
    return LabError(
        f"{problem}: its model returned {described(found)}. "
        "Its forward must return (features, {task: output}): what the losses share, and one output per task."
    )


def not_losses(problem: str, found: object, names: Iterable[str]) -> LabError:
    """``compute_losses`` returned something else."""
    return LabError(
        f"{problem}: compute_losses returned {described(found)}. It must return a dict of one scalar "
        f"(or None) for each of {', '.join(names) or 'no losses'}; set loss_names if the names are not those "
        "of `losses`."
    )


def not_one_loss(problem: str, name: str, found: object) -> LabError:
    """A loss is not a scalar."""
    return LabError(
        f"{problem}: loss {name!r} is {described(found)}, not one number. Reduce it: .mean() over the batch."
    )


def loss_is_not_finite(problem: str, values: str) -> LabError:
    """A loss is nan or infinite on the first small batch."""
    return LabError(
        f"{problem}: on one batch of the training split, before any step, {values}. Look for missing labels "
        "(nan in a target), a log of 0 or a division by 0; `compute_losses` may give None for a loss whose "
        "labels are missing in a batch."
    )


def no_file(path: Path) -> LabError:
    """There is no such problem file."""
    return LabError(
        f"There is no file {path}. Give a recipe (`manyloss recipes`) or a file with your Problem."
    )


def not_utf8(path: Path) -> LabError:
    """A file that is no text."""
    return LabError(f"{path} is not UTF-8 text. Save it as UTF-8; a problem is a Python file.")


def source_changed(folder: Path, file: str, changes: Iterable[str], kept: Path) -> StorageError:
    """The user's file says something else than when the folder was made."""
    return StorageError(
        f"The results in {folder} were made with another text: {'; '.join(changes)}. Choose another folder "
        f"with --out for {file} as it is now; as it was, it is kept in {kept} and goes on from there."
    )


def no_problem(path: Path, found: Iterable[str]) -> LabError:
    """A problem file must say which problem it means."""
    names = sorted(found)
    what = f"has {len(names)} Problem classes ({', '.join(names)})" if names else "has no Problem class"
    return LabError(
        f"{path} {what}. Write one subclass of manyloss.lab.Problem, or set `problem = ...` at module level."
    )


def not_options(what: str, options: Iterable[str], reason: object) -> LabError:
    """A problem does not take these options."""
    given = ", ".join(f"--{name}" for name in options)
    return LabError(f"{what} does not take {given}: {reason}")


def unknown_source(recipe: str, data: str, known: Iterable[str]) -> DataError:
    """A recipe was given a ``--data`` that it cannot read."""
    return DataError(f"{recipe} has no data {data!r}. Choose --data {' or '.join(sorted(known))}.")


# -- the command line -------------------------------------------------------------------------------------


def unknown_scale(recipe: str, scale: str, known: Iterable[str]) -> LabError:
    """A recipe has no such scale."""
    return LabError(f"Recipe {recipe!r} has no scale {scale!r}. {closest(scale, known)}")


def device(name: str) -> None:
    """``--device`` names a device that is there."""
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise LabError(f"--device must be cpu or cuda; received {name!r}.")
    if name != "cpu" and not torch.cuda.is_available():
        raise LabError(
            f"--device {name}: this torch ({torch.__version__}) sees no GPU. Leave the option out."
        )


def not_seeds(text: str, most: int) -> LabError:
    """``--seeds`` was not understood, or are too many or too large."""
    return LabError(
        f"--seeds {text[:60]!r} is not understood. Give how many (--seeds 5, at most {most}) or which ones "
        "(--seeds 0,1,7, each below 2^32)."
    )


def not_a_fraction(text: str) -> LabError:
    """``--at-least`` was not understood."""
    return LabError(
        f"--at-least {text[:60]!r} is not understood. Give the smallest relative change that matters: "
        "0.5% or 0.005."
    )


def unknown_executor(name: str, known: Iterable[str]) -> LabError:
    """``--executor`` names none."""
    return LabError(f"There is no executor {name!r}. {closest(name, known)}")


def not_executor_options(name: str, options: Iterable[str], reason: object) -> LabError:
    """An executor does not take these options."""
    return LabError(f"Executor {name!r} does not take {', '.join(options)}: {reason}.")


def no_extra(extra: str, package: str) -> LabError:
    """An executor's package is missing."""
    return LabError(f"The executor needs {package}: pip install 'manyloss[{extra}]'.")


# -- networks ---------------------------------------------------------------------------------------------


def no_such_image_size(size: int, known: Iterable[int]) -> LabError:
    """A network is asked for images that its first layer is not made for."""
    return LabError(
        f"There is no ResNet for images of {size} pixels. Known: {', '.join(map(str, known))}. "
        f"Resize the images to one of these."
    )


# -- diagnose ---------------------------------------------------------------------------------------------


def nothing_to_diagnose(problem: str) -> LabError:
    """The problem's steps do not pass through MultiLoss."""
    return LabError(
        f"{problem} trains without MultiLoss, so there are no per-loss gradients to look at. "
        f"Diagnose a problem whose training_step calls multi.backward(losses, features=...)."
    )


def diagnosis_crashed(problem: str, error: Exception) -> LabError:
    """The run that was to be looked at did not end."""
    text = str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
    return LabError(
        f"{problem} cannot be diagnosed, its training failed: {' '.join(text.split())[:500]} "
        f"`manyloss compare` with --methods equal keeps the whole traceback in log.txt."
    )


def no_conflict_records(path: Path, error: object) -> LabError:
    """A file that no ConflictRecorder wrote."""
    return LabError(
        f"{path} holds no records of a ConflictRecorder ({type(error).__name__}: {error}). "
        f"Give the file that its path= named, a recipe, or a file with your Problem."
    )


def missing_files(name: str, files: Iterable[str], folders: Iterable[object]) -> DataError:
    """A data set that cannot be downloaded by us is in none of the places looked at."""
    places = ", ".join(str(folder) for folder in folders)
    return DataError(
        f"{name} is in none of {places}: {', '.join(files)} must be there. Put the official files into one "
        f"of these folders, or name the folder that has them with --data-root."
    )


def not_so_many(wanted: int, there: int) -> DataError:
    """More (or fewer) examples are asked for than a data set can give."""
    return DataError(f"{wanted} examples are asked for, {there} are there: ask for 1 to {there}.")


# -- benchmarks -------------------------------------------------------------------------------------------


def no_benchmarks(folder: Path) -> LabError:
    """Benchmarks are not part of the installed package."""
    return LabError(
        f"There are no benchmarks in {folder}: they are not part of the installed package. "
        "Clone the repository and install it with pip install --editable '.[dev]'."
    )


def unknown_benchmark(name: str, known: Iterable[str]) -> LabError:
    """There is no such benchmark."""
    return LabError(f"There is no benchmark {name!r}. {closest(name, known)}")


def benchmark_failed(name: str, code: int) -> LabError:
    """A benchmark ended with an error, which it has printed."""
    return LabError(f"Benchmark {name!r} ended with exit code {code}; what it printed stands above.")


# -- claims -----------------------------------------------------------------------------------------------


def unknown_claim(name: str, known: Iterable[str]) -> LabError:
    """There is no claim of this name."""
    return LabError(f"There is no claim {name!r}. {closest(name, known)} `manyloss reproduce` lists them.")


def bad_rule(path: object, reason: object) -> LabError:
    """A claim's rule file cannot be read."""
    return LabError(f"The rule {path} is not understood: {reason}. See the rules beside it.")


def other_rule(folder: object, then: str, now: str) -> LabError:
    """Results were made under another rule: changing the rule after the results is not allowed."""
    return LabError(
        f"{folder} was made under the rule {then}; the rule is now {now}. Results are only judged by the "
        f"rule that was there before them: choose another folder with --out."
    )


def other_number_of_classes(name: str, wanted: int, found: int) -> DataError:
    """A folder per class, and not as many as there should be."""
    return DataError(f"{name} has {found} class folders, not {wanted}. Give the folder of the whole set.")
