"""Ten classes of 32x32 colour images, whatever they come from; smaller and grey ones are made to fit."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from manyloss.lab import checks
from manyloss.lab.datasets import cifar10, digits, mnist, svhn, usps
from manyloss.lab.datasets.labelled import TrainAndTest

SIZE = 32
CLASSES = 10
HELD_OUT = 0.2  # of a source that has no test set of its own

Grey = npt.NDArray[np.uint8]


def load(name: str, data_root: str | os.PathLike[str], *, recipe: str) -> TrainAndTest:
    """The images of this source; an error that lists the sources if there is none of this name."""
    if name not in SOURCES:
        raise checks.unknown_source(recipe, name, SOURCES)
    return SOURCES[name](data_root)


def stratified(
    labels: npt.NDArray[np.int64], count: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """``count`` places of ``labels`` [N] with every class in its share (to one example), in random order."""
    if not 0 < count <= len(labels):
        raise checks.DataError(
            f"{count} examples are asked for, {len(labels)} are there: ask for 1 to {len(labels)}."
        )
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    evenly = np.floor((np.arange(count) + generator.random()) * len(labels) / count).astype(np.int64)
    return generator.permutation(by_class[evenly])


def _coloured(images: Grey) -> npt.NDArray[np.uint8]:
    """Grey images [N, h, w] on 32x32: repeated as often as it fits, black around, the same in all colours."""
    times = SIZE // images.shape[1]
    large = images.repeat(times, axis=1).repeat(times, axis=2)
    missing = SIZE - large.shape[1]
    around = (missing // 2, missing - missing // 2)
    padded = np.pad(large, ((0, 0), around, around))
    return np.ascontiguousarray(np.broadcast_to(padded[:, None], (len(padded), 3, SIZE, SIZE)))


def _split(images: Grey, labels: npt.NDArray[np.int64]) -> TrainAndTest:
    """Hold out a fifth, always the same one."""
    generator = np.random.default_rng(0)
    test = stratified(labels, round(HELD_OUT * len(labels)), generator)
    train = np.setdiff1d(np.arange(len(labels)), test)
    coloured = _coloured(images)
    return TrainAndTest(coloured[train], labels[train], coloured[test], labels[test])


def _mnist(data_root: str | os.PathLike[str]) -> TrainAndTest:
    found = mnist.load(data_root)
    if len(found.labels) != 70_000:
        return _split(found.images, found.labels)
    images = _coloured(found.images)
    return TrainAndTest(images[:60_000], found.labels[:60_000], images[60_000:], found.labels[60_000:])


def _usps(data_root: str | os.PathLike[str]) -> TrainAndTest:
    found = usps.load(data_root)
    return TrainAndTest(
        _coloured(found.train_images), found.train_labels, _coloured(found.test_images), found.test_labels
    )


def _digits(data_root: str | os.PathLike[str]) -> TrainAndTest:  # noqa: ARG001  they come inside scikit-learn
    found = digits.load()
    return _split(found.images, found.labels)


SOURCES: dict[str, Callable[[str | os.PathLike[str]], TrainAndTest]] = {
    "cifar10": lambda data_root: TrainAndTest(*cifar10.load(data_root)),
    "svhn": lambda data_root: TrainAndTest(*svhn.load(data_root)),
    "usps": _usps,
    "mnist": _mnist,
    "digits": _digits,
}
