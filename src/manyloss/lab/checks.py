"""The lab's kinds of errors, and the texts that several places share; others stand where they are raised.

Each names the thing, what was received and the way out.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from manyloss.lab.printing import few, printable


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


# -- data sets --------------------------------------------------------------------------------------------


class DataError(LabError):
    """A data set cannot be had, or what is there is not what it should be."""


def missing_data(name: str, folders: Iterable[object]) -> DataError:
    """A recipe reads a data set that is in none of the places looked at."""
    places = ", ".join(str(folder) for folder in folders)
    return DataError(
        f"{name} is in none of {places}. Run `manyloss data get {name}`, or name the folder with --data-root."
    )


def missing_files(name: str, files: Iterable[str], folders: Iterable[object], page: str = "") -> DataError:
    """A data set that cannot be downloaded by us is in none of the places looked at."""
    places = ", ".join(str(folder) for folder in folders)
    offered = f", from {page}," if page else ""
    return DataError(
        f"{name} is in none of {places}: {', '.join(files)} must be there. Put the official files{offered} "
        f"into one of these folders, or name the folder that has them with --data-root."
    )


def part_of_a_set(folder: object, missing: int, files: int, example: str, page: str) -> DataError:
    """Some files of a data set are there and some are not."""
    return DataError(
        f"{folder} lacks {missing or 'all'} of {files} files, {example} among them. Copy the set again, from "
        f"{page}: nothing is trained on a part of it."
    )


def damaged_data(path: object, reason: str) -> DataError:
    """A file of a data set is there but cannot be read."""
    return DataError(f"{path} is damaged: {reason}. Delete it and get it again.")


def no_weights_to_hold(text: str, method: str) -> LabError:
    """``graddrop-static``: GradDrop decides place by place."""
    return LabError(
        f"{text!r} would hold the average weights of {method!r}, which finds none. Methods that weigh losses "
        "or their gradients have such a row: gradnorm-static, uncertainty-static, cagrad-static."
    )


def average_below_zero(method: str, weights: Mapping[str, float]) -> LabError:
    """IMTL-G's weights may be negative: a step can go against a loss, a whole training should not."""
    below = ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items() if weight < 0)
    return LabError(
        f"The average weights of {method!r} are below 0 for {below}: a sum that holds them would train "
        f"against that loss. There are no fixed weights to compare {method!r} with here; leave this row out."
    )


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


class CannotWriteError(StorageError):
    """The system refused to write; what is there can be read."""


def cannot_write(path: Path, error: OSError) -> CannotWriteError:
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
    return CannotWriteError(
        f"Cannot write {path}: {error.strerror or error}. {way}, then run the same command again: "
        f"finished trials are kept."
    )


def cannot_read(path: Path, error: OSError) -> StorageError:
    """The system refused to read."""
    return StorageError(f"Cannot read {path}: {error.strerror or error}.")


def damaged(path: Path, error: Exception) -> StorageError:
    """A file of a run folder is not what was written there."""
    whole = path.name in ("study.json", "tuning.json", "pareto.json", "step_time.json")
    what = f"the file {path}" if whole else f"the folder {path.parent}"
    rest = "the trials are found again" if whole else "that trial starts again, the others are kept"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return StorageError(
        f"{path} is damaged ({reason}). Delete {what} and run the command that made it again: {rest}."
    )


def of_another_version(path: Path, error: Exception) -> StorageError:
    """A trial's file is whole, and older or newer than this version."""
    return StorageError(
        f"{path} is of another version of manyloss ({error}). Delete the folder {path.parent} and run the "
        "command that made it again: that trial starts again, the others are kept."
    )


def not_packed(path: Path, reason: str) -> LabError:
    """A file to go on from is not what `packing.pack` writes."""
    return LabError(
        f"{path} is no packed run ({reason}). Give a file that `manyloss pack RUN` wrote, or leave "
        "--start-from out; nothing was unpacked."
    )


def no_packed_run(path: Path, name: str) -> LabError:
    """There is nothing to go on from."""
    return LabError(
        f"There is no packed run {str(path)!r}. Give --start-from the file {name} that `manyloss pack RUN` "
        "wrote, or the folder that it is in; without --start-from everything is run."
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


# -- problem files ----------------------------------------------------------------------------------------


class BrokenProblemError(LabError):
    """The user's own code failed: the text is its traceback, without the lab's frames."""


class BrokenScriptError(LabError):
    """The user's script failed: the text is what it printed last, its traceback included."""


def broken_script(name: str, arms: Iterable[str], said: str) -> BrokenScriptError:
    """A script fails before it has logged anything, whatever the method."""
    return BrokenScriptError(
        f"{name} failed before its first lab.log, with {', '.join(dict.fromkeys(arms))} alike. Nothing else "
        f"was run, and nothing is kept.\n{said}"
    )


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
        f"Method {method!r} cannot be given to a script: it changes the model, data or step, or reads other "
        "trials. Write a Problem for it (docs/lab.md), or leave it out."
    )


class NothingAloneError(LabError):
    """No loss of a problem can be compared with a training of its own."""


def nothing_alone(problem: str, metrics: Sequence[str], losses: Sequence[str]) -> NothingAloneError:
    """Single-task training was asked for, and metrics belong to no loss."""
    return NothingAloneError(
        f"--single-task compares every metric with a training of its own loss alone, and {problem} has no "
        f"{'loss' if len(metrics) == 1 else 'losses'} called {', '.join(map(repr, metrics))}, as "
        f"{'its metric is' if len(metrics) == 1 else 'its metrics are'} (its losses: {few(losses, ', ')}). "
        "Name the metrics after losses, or leave --single-task out."
    )


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


def source_changed(folder: Path, file: str, changes: Iterable[str], kept: Path) -> StorageError:
    """The user's file says something else than when the folder was made."""
    return StorageError(
        f"The results in {folder} were made with another text: {'; '.join(changes)}. Choose another folder "
        f"with --out for {file} as it is now; as it was, it is kept in {kept} and goes on from there."
    )


def not_options(what: str, options: Iterable[str], reason: object) -> LabError:
    """A problem does not take these options."""
    return LabError(f"{what} does not take {', '.join(map(_as_given, options))}: {reason}")


def unknown_options(
    what: str, options: Iterable[str], known: Collection[str] | None, error: object
) -> LabError:
    """A problem was not made with these options: those that it does not know, or what it says of them."""
    wrong = [] if known is None else [name for name in options if name not in known]
    if known is None or not wrong:
        return not_options(what, options, error)
    return not_options(what, wrong, closest(wrong[0], known))


def other_kind(what: str, option: str, value: object, kinds: Sequence[str]) -> LabError:
    """A problem's option has a value of another kind."""
    text = "the text " * isinstance(value, str)
    return LabError(f"{what}: {_as_given(option)} must be {' or '.join(kinds)}, got {text}{value!r}.")


def no_size(what: str, option: str, value: object, lowest: int) -> LabError:
    """A recipe's option is a number that is too small, or without end."""
    return LabError(f"{what}: {_as_given(option)} must be finite and at least {lowest}, got {value!r}.")


def _as_given(option: str) -> str:
    """How the command line gives an option."""
    own = option in ("data", "data_root", "epochs", "metric", "scale")
    return f"--{option.replace('_', '-')}" if own else f"--option {option}"


def no_pretrained_weights(path: object, error: Exception) -> LabError:
    """A file to start an encoder from holds no weights."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return LabError(
        f"{path} holds no weights ({reason}). Give the state_dict of torchvision's vgg16 or vgg16_bn, as "
        "torch.save(model.state_dict(), FILE) writes it."
    )


def unknown_source(recipe: str, data: str, known: Iterable[str], option: str = "data") -> DataError:
    """A recipe was given a ``--data``, or another such option, that it cannot read."""
    given = f"{_as_given(option)}{' ' if option == 'data' else '='}"
    return DataError(f"{recipe} has no {option} {data!r}. Choose {given}{' or '.join(sorted(known))}.")


# -- the command line -------------------------------------------------------------------------------------


def unknown_scale(recipe: str, scale: str, known: Iterable[str]) -> LabError:
    """A recipe has no such scale."""
    return LabError(f"Recipe {recipe!r} has no scale {scale!r}. {closest(scale, known)}")


def device(name: str, *, fast: bool = False, needed: bool = True) -> None:
    """``--device`` names a device, and one that is there if it is ``needed``; ``--fast`` is for GPUs."""
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise LabError(f"--device must be cpu or cuda; received {name!r}.")
    if fast and name == "cpu":
        raise LabError(
            "--fast is for GPUs: a step in bfloat16 takes longer on a CPU. Add --device cuda, or leave it."
        )
    if needed and name != "cpu" and not torch.cuda.is_available():
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
