from itertools import combinations

import numpy as np
import pytest

from manyloss.lab.datasets import digits, two_digits

PER_PAIR = {"train": 30, "validation": 20, "test": 10}


@pytest.fixture(scope="module")
def source():
    return digits.load()


@pytest.fixture(scope="module")
def splits(source):
    return build(source, seed=3)


def build(source, seed):
    return two_digits.build(
        source.images, source.labels, height=10, half_width=12, images_per_pair=PER_PAIR, seed=seed
    )


def pairs(split):
    return set(zip(split.left.tolist(), split.right.tolist(), strict=True))


def test_sizes_are_pairs_times_images(splits):
    assert {name: len(split.images) for name, split in splits.items()} == {
        "train": 16 * 30,
        "validation": 4 * 20,
        "test": 5 * 10,
    }
    assert splits["train"].images.shape[1:] == (10, 24)


@pytest.mark.parametrize("seed", range(20))
def test_pairs_of_classes_are_dealt_16_4_5_and_shared_by_none(seed):
    dealt = two_digits.split_pairs(np.random.default_rng(seed))
    assert {name: len(set(each)) for name, each in dealt.items()} == {"train": 16, "validation": 4, "test": 5}
    assert set().union(*map(set, dealt.values())) == {(i, j) for i in range(5) for j in range(5)}
    for side in (0, 1):
        assert {pair[side] for pair in dealt["train"]} == set(range(5))
        assert sorted(pair[side] for pair in dealt["test"]) == list(range(5))


def test_no_pair_of_classes_and_no_digit_is_in_two_splits(splits):
    for one, other in combinations(splits.values(), 2):
        assert not pairs(one) & pairs(other)
        for side in ("left_digit", "right_digit"):
            assert not np.intersect1d(getattr(one, side), getattr(other, side)).size


def test_even_digits_are_left_and_odd_ones_right(source, splits):
    for split in splits.values():
        np.testing.assert_array_equal(source.labels[split.left_digit], 2 * split.left)
        np.testing.assert_array_equal(source.labels[split.right_digit], 2 * split.right + 1)


def test_every_pair_has_as_many_images(splits):
    for name, split in splits.items():
        _, counts = np.unique(5 * split.left + split.right, return_counts=True)
        assert set(counts.tolist()) == {PER_PAIR[name]}


def test_each_half_holds_its_digit_whole_at_some_place(source, splits):
    split = splits["test"]
    seen = set()
    for image, left, right in zip(split.images, split.left_digit, split.right_digit, strict=True):
        for half, digit in ((image[:, :12], left), (image[:, 12:], right)):
            windows = np.lib.stride_tricks.sliding_window_view(half, (8, 8))
            places = np.argwhere((windows == source.images[digit]).all(axis=(2, 3)))
            assert len(places) >= 1
            assert half.sum() == source.images[digit].sum()
            seen.add(tuple(places[0].tolist()))
    assert len(seen) > 10  # of 3 x 5 places


def test_no_digit_is_used_again_before_all_of_its_class_were(splits):
    _, counts = np.unique(splits["train"].left_digit, return_counts=True)
    of_class = splits["train"].left[np.unique(splits["train"].left_digit, return_index=True)[1]]
    for label in range(5):
        assert np.ptp(counts[of_class == label]) <= 1


def test_the_seed_decides_everything(source, splits):
    again, other = build(source, seed=3), build(source, seed=4)
    np.testing.assert_array_equal(again["train"].images, splits["train"].images)
    assert not np.array_equal(other["train"].images, splits["train"].images)
    assert pairs(other["test"]) != pairs(splits["test"])


def test_the_papers_sizes_on_images_of_mnists_size():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (1000, 28, 28), np.uint8)
    labels = np.arange(1000) % 10
    splits = two_digits.build(
        images,
        labels,
        height=64,
        half_width=32,
        images_per_pair={"train": 1000, "validation": 1000, "test": 1000},
        seed=0,
    )
    assert [split.images.shape for split in splits.values()] == [
        (16_000, 64, 64),
        (4_000, 64, 64),
        (5_000, 64, 64),
    ]
