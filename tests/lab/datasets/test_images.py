import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from manyloss.lab.checks import DataError
from manyloss.lab.datasets import images, svhn, usps
from tests.lab.datasets.test_cifar10 import write_batches

DATA = Path(os.environ.get("MANYLOSS_DATA", "../shared/data"))


def write_svhn(folder, count=12):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    written = {}
    for name in svhn.FILES:
        x = generator.integers(0, 256, (32, 32, 3, count), np.uint8)
        y = (1 + np.arange(count) % 10).astype(np.uint8)[:, None]
        savemat(folder / name, {"X": x, "y": y})
        written[name] = x
    return written


def test_svhn_turns_images_upright_and_ten_is_the_digit_zero(tmp_path):
    written = write_svhn(tmp_path / "svhn")
    found = svhn.load(tmp_path)
    assert found.train_images.shape == (12, 3, 32, 32)
    np.testing.assert_array_equal(found.train_images[4, 1], written["train_32x32.mat"][:, :, 1, 4])
    assert found.test_labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    np.testing.assert_array_equal(svhn.load(tmp_path / "svhn").train_labels, found.train_labels)


def test_missing_and_damaged_svhn_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"svhn is in none of .*: train_32x32.mat, test_32x32.mat must be"):
        svhn.load(tmp_path)
    write_svhn(tmp_path)
    savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((3, 3)), "y": np.zeros((3, 1))})
    with pytest.raises(DataError, match=r"test_32x32.mat is damaged: X is \[3, 3\] and y \[3\]"):
        svhn.load(tmp_path)
    (tmp_path / "test_32x32.mat").write_bytes(b"not a MATLAB file at all" * 20)
    with pytest.raises(DataError, match=r"test_32x32.mat is damaged"):
        svhn.load(tmp_path)


def test_usps_counts_digits_from_one(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (usps.TRAINING + 10, 257)).astype(np.uint8)
    rows[:, 256] = 1 + np.arange(len(rows)) % 10
    savemat(tmp_path / usps.FILE, {"usps_all": rows})
    found = usps.load(tmp_path)
    assert found.train_labels[:3].tolist() == [0, 1, 2]
    assert len(found.test_labels) == 10
    np.testing.assert_array_equal(found.train_images[5].ravel(), rows[5, :256])
    with pytest.raises(DataError, match=r"usps is in none of .*usps_all.mat must be there"):
        usps.load(tmp_path / "elsewhere")


def test_the_real_usps_is_the_official_one():
    if not (DATA / usps.FILE).exists():
        pytest.skip("usps_all.mat is not there")
    found = usps.load(DATA)
    assert (len(found.train_labels), len(found.test_labels)) == (7291, 2007)
    assert np.bincount(found.train_labels).tolist() == [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]


def test_every_source_gives_32x32_colour_images_of_ten_classes(tmp_path):
    write_batches(tmp_path / "cifar-10-batches-bin")
    write_svhn(tmp_path / "svhn")
    for name in ("cifar10", "svhn", "digits"):
        found = images.load(name, tmp_path, recipe="test")
        assert found.train_images.shape[1:] == found.test_images.shape[1:] == (3, 32, 32)
        assert found.train_images.dtype == np.uint8
        assert set(found.train_labels) | set(found.test_labels) <= set(range(10))
        assert len(found.train_images) == len(found.train_labels)
    with pytest.raises(DataError, match="test has no data 'cat'"):
        images.load("cat", tmp_path, recipe="test")


def test_grey_images_are_enlarged_and_centred():
    grey = np.arange(1, 29 * 28 + 1, dtype=np.int64).reshape(1, 28, 29)[:, :, :28].astype(np.uint8)
    coloured = images._coloured(grey)
    np.testing.assert_array_equal(coloured[0, 2, 2:30, 2:30], grey[0])
    assert not coloured[0, :, :2].any()
    twice = images._coloured(grey[:, :16, :16])
    np.testing.assert_array_equal(twice[0, 0, 4:6, 7], [grey[0, 2, 3]] * 2)


def test_the_held_out_digits_are_not_trained_on():
    found = images.load("digits", "nowhere", recipe="test")
    assert (len(found.train_labels), len(found.test_labels)) == (1438, 359)
    share = np.bincount(found.test_labels) / np.bincount(
        np.concatenate([found.train_labels, found.test_labels])
    )
    assert abs(share - 0.2).max() < 0.01


@pytest.mark.parametrize("count", [1, 7, 50, 999, 1000])
def test_stratified_takes_each_class_in_its_share_and_nothing_twice(count):
    labels = np.random.default_rng(1).choice(10, 1000, p=np.arange(1, 11) / 55).astype(np.int64)
    chosen = images.stratified(labels, count, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == count
    expected = np.bincount(labels, minlength=10) * count / 1000
    assert abs(np.bincount(labels[chosen], minlength=10) - expected).max() <= 1
    again = images.stratified(labels, count, np.random.default_rng(0))
    np.testing.assert_array_equal(chosen, again)


def test_five_percent_of_cifar_is_250_of_each_class():
    labels = np.random.default_rng(2).permutation(np.repeat(np.arange(10), 5000))
    chosen = images.stratified(labels, 2500, np.random.default_rng(0))
    assert set(np.bincount(labels[chosen]).tolist()) == {250}


def test_more_than_there_is_is_refused():
    with pytest.raises(DataError, match="11 examples are asked for, 10 are there"):
        images.stratified(np.zeros(10, np.int64), 11, np.random.default_rng(0))
