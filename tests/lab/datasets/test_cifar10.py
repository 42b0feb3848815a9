import json

import numpy as np
import pytest
from PIL import Image

from manyloss.lab.checks import DataError
from manyloss.lab.datasets import cifar10


def write_batches(folder, per_batch=3):
    folder.mkdir(parents=True)
    records = {}
    for index, name in enumerate(cifar10._FILES):
        records[name] = np.random.default_rng(index).integers(0, 10, (per_batch, 3073), np.uint8)
        records[name].tofile(folder / name)
    return records


@pytest.mark.parametrize("place", ["cifar-10-batches-bin", "given"])
def test_batches_are_read_in_order(tmp_path, place):
    records = write_batches(tmp_path / place)
    found = cifar10.load(tmp_path if place == "cifar-10-batches-bin" else tmp_path / place)
    assert found.train_images.shape == (15, 3, 32, 32)
    np.testing.assert_array_equal(found.train_labels[3:6], records["data_batch_2.bin"][:, 0])
    np.testing.assert_array_equal(found.test_images.reshape(3, -1), records["test_batch.bin"][:, 1:])


def test_a_missing_batch_names_the_command(tmp_path):
    write_batches(tmp_path / cifar10.FOLDER)
    (tmp_path / cifar10.FOLDER / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match="Run `manyloss data get cifar10`"):
        cifar10.load(tmp_path)


def test_a_cut_batch_is_named(tmp_path):
    write_batches(tmp_path / cifar10.FOLDER)
    (tmp_path / cifar10.FOLDER / "data_batch_3.bin").write_bytes(b"123")
    with pytest.raises(DataError, match=r"data_batch_3.bin is damaged: 3 bytes are no whole number of 3073"):
        cifar10.load(tmp_path)


def test_the_package_is_put_into_official_records(tmp_path):
    generator = np.random.default_rng(0)
    images = {}
    for name in cifar10._FILES:
        stem = name.removesuffix(".bin")
        images[name] = generator.integers(0, 256, (10, 1024, 3), np.uint8)
        Image.fromarray(images[name]).save(tmp_path / f"{stem}.png")
    train, test = generator.integers(0, 10, 50), generator.integers(0, 10, 10)
    (tmp_path / "train_lables.json").write_text(json.dumps(train.tolist()))
    (tmp_path / "test_lables.json").write_text(json.dumps(test.tolist()))
    contents = dict(cifar10._convert(tmp_path))
    assert list(contents) == list(cifar10._FILES)
    second = np.frombuffer(contents["data_batch_2.bin"], np.uint8).reshape(10, 3073)
    assert second[7, 0] == train[17]
    assert second[7, 1 + 1024 + 5] == images["data_batch_2.bin"][7, 5, 1]  # green plane, sixth pixel
    last = np.frombuffer(contents["test_batch.bin"], np.uint8).reshape(10, 3073)
    np.testing.assert_array_equal(last[:, 0], test)
