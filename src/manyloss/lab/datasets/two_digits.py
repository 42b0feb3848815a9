"""Two digits side by side: an even one on the left, an odd one on the right (CosReg 2020, section 4).

Each digit lies at a random place inside its half. The 25 pairs of classes are dealt to the splits 16/4/5, so
that a split shows only pairs that no other split has; the digit images are dealt out too. The paper does not
say how the pairs were dealt: here every class is in one pair of the test set, in at most one of the
validation set, and in three or four of the training set; or, as another reading, at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CLASSES = 5  # per side
SHARES = {"train": 0.64, "validation": 0.16, "test": 0.20}  # of each class's digits: 16/4/5 of 25


class TwoDigits(NamedTuple):
    """One split.

    ``images`` uint8 [N, height, 2 * half width]; ``left`` and ``right`` int64 [N], the place of the digit's
    class among the even or odd ones (0..4); ``left_digit`` and ``right_digit`` int64 [N], which of the
    source's digits was drawn.
    """

    images: npt.NDArray[np.uint8]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    left_digit: npt.NDArray[np.int64]
    right_digit: npt.NDArray[np.int64]


def split_pairs(
    generator: np.random.Generator, *, at_random: bool = False
) -> dict[str, list[tuple[int, int]]]:
    """The 25 (left class, right class) pairs, 16/4/5.

    A Latin square's diagonals hold every class once per side: one diagonal is the test set, four pairs of
    another one the validation set. ``at_random`` deals them as they come.
    """
    if at_random:
        dealt = [divmod(int(pair), CLASSES) for pair in generator.permutation(CLASSES * CLASSES)]
        return {"train": dealt[:16], "validation": dealt[16:20], "test": dealt[20:]}
    left, right = generator.permutation(CLASSES), generator.permutation(CLASSES)
    diagonals = [
        [(int(left[i]), int(right[(i + shift) % CLASSES])) for i in range(CLASSES)]
        for shift in range(CLASSES)
    ]
    test, validation, *rest = diagonals
    return {
        "train": [*validation[4:], *(pair for diagonal in rest for pair in diagonal)],
        "validation": validation[:4],
        "test": test,
    }


def build(
    digits: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    *,
    height: int,
    half_width: int,
    images_per_pair: Mapping[str, int],
    seed: int,
    at_random: bool = False,
) -> dict[str, TwoDigits]:
    """Draw the three splits; the same arguments give the same images.

    Args:
        digits: uint8 [M, h, w], no larger than a half of the canvas.
        labels: int64 [M], 0..9.
        height: of the canvas; 64 in the paper.
        half_width: width of each half; 32 in the paper.
        images_per_pair: split -> images of each of its pairs; 1,000 in the paper.
        seed: of pairs, digits and places.
        at_random: as for `split_pairs`.

    Within a split every digit of a class is used once before one is used again.

    """
    generator = np.random.default_rng(seed)
    pairs = split_pairs(generator, at_random=at_random)
    pools = _deal(labels, generator)
    splits = {}
    for split, split_pairs_ in pairs.items():
        count = images_per_pair[split]
        left = np.repeat([pair[0] for pair in split_pairs_], count)
        right = np.repeat([pair[1] for pair in split_pairs_], count)
        left_digit = _draw(pools[split], 2 * left, generator)
        right_digit = _draw(pools[split], 2 * right + 1, generator)
        images = np.zeros((len(left), height, 2 * half_width), np.uint8)
        for side, chosen in enumerate((left_digit, right_digit)):
            _place(images[:, :, side * half_width :][:, :, :half_width], digits[chosen], generator)
        order = generator.permutation(len(left))
        splits[split] = TwoDigits(
            images[order], left[order], right[order], left_digit[order], right_digit[order]
        )
    return splits


def _deal(
    labels: npt.NDArray[np.int64], generator: np.random.Generator
) -> dict[str, dict[int, npt.NDArray[np.int64]]]:
    """Split -> digit class -> the digits of that class which the split may use."""
    pools: dict[str, dict[int, npt.NDArray[np.int64]]] = {split: {} for split in SHARES}
    for digit in range(2 * CLASSES):
        of_class = generator.permutation(np.flatnonzero(labels == digit))
        ends = np.rint(np.cumsum(list(SHARES.values())) * len(of_class)).astype(int)
        for split, part in zip(SHARES, np.split(of_class, ends[:-1]), strict=True):
            pools[split][digit] = part
    return pools


def _draw(
    pool: Mapping[int, npt.NDArray[np.int64]],
    wanted: npt.NDArray[np.int64],
    generator: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """One digit of each wanted class [N], going through shuffled copies of the class's pool."""
    drawn = np.empty(len(wanted), np.int64)
    for digit in np.unique(wanted):
        places = np.flatnonzero(wanted == digit)
        rounds = -(-len(places) // len(pool[digit]))
        order = np.concatenate([generator.permutation(pool[digit]) for _ in range(rounds)])
        drawn[places] = order[: len(places)]
    return drawn


def _place(
    half: npt.NDArray[np.uint8], digits: npt.NDArray[np.uint8], generator: np.random.Generator
) -> None:
    """Write digits [N, h, w] at random places of one half of the canvases [N, height, half width]."""
    count, height, width = digits.shape
    top = generator.integers(0, half.shape[1] - height + 1, count)
    start = generator.integers(0, half.shape[2] - width + 1, count)
    rows = top[:, None, None] + np.arange(height)[:, None]
    columns = start[:, None, None] + np.arange(width)
    half[np.arange(count)[:, None, None], rows, columns] = digits
