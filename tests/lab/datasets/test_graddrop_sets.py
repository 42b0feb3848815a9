"""CelebA, CIFAR-100, ImageNet 32x32 and clothing: files made in their layouts, whole or named."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyloss.lab.checks import DataError
from manyloss.lab.datasets import celeba, cifar100, clothing, imagenet32

DATA = Path(os.environ.get("MANYLOSS_DATA", "../shared/data"))
NAMES = ["Bald", "Smiling", "Young"]


def write_celeba(folder, *, photos=6, nested=True):
    parts = (folder / "Anno", folder / "Eval", folder / "Img") if nested else (folder,) * 3
    for part in parts:
        part.mkdir(parents=True, exist_ok=True)
    values = [[1, -1, 1], [-1, -1, 1], [1, 1, 1], [-1, 1, -1], [-1, -1, -1], [1, -1, -1]]
    rows = [f"{i:06}.jpg {' '.join(f'{v:2}' for v in row)}" for i, row in enumerate(values, 1)]
    (parts[0] / celeba.FILES[0]).write_text("\n".join(["6", " ".join(NAMES) + " ", *rows]) + "\n")
    lines = [f"{i:06}.jpg {part}" for i, part in enumerate((0, 0, 0, 1, 2, 2), 1)]
    (parts[1] / celeba.FILES[1]).write_text("\n".join(lines) + "\n")
    images = parts[2] / celeba.FILES[2]
    images.mkdir()
    for number in range(1, photos + 1):
        picture = np.zeros((218, 178, 3), np.uint8)
        picture[100:118, :89] = 255  # a light bar on the left, at half height
        Image.fromarray(picture).save(images / f"{number:06}.jpg")
    return parts


@pytest.mark.parametrize("nested", [True, False])
def test_celeba_is_read_with_its_own_parts(tmp_path, nested):
    write_celeba(tmp_path / "celeba", nested=nested)
    found = celeba.load(tmp_path)
    assert found.names == tuple(NAMES)
    assert [len(part.files) for part in found[:3]] == [3, 1, 2]
    np.testing.assert_array_equal(found.train.attributes, [[1, 0, 1], [0, 0, 1], [1, 1, 1]])
    assert found.test.files[1].name == "000006.jpg"
    image = celeba.photo(found.test.files[1], 64)
    assert image.shape == (3, 64, 64)
    assert image[:, 32, 8].min() > 200 > 50 > image[:, 32, 56].max()
    assert image[:, 8].max() < 50


def test_a_part_of_celeba_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"celeba is in none of .*list_eval_partition.txt, img_align_celeba must"
    ):
        celeba.load(tmp_path)
    write_celeba(tmp_path, photos=4)
    with pytest.raises(
        DataError, match=r"lacks 2 of 6 files, 000005.jpg among them. Copy the set again, from CelebA"
    ):
        celeba.load(tmp_path)
    attributes = tmp_path / "Anno" / celeba.FILES[0]
    whole = attributes.read_text()
    attributes.write_text(whole[:-25])
    with pytest.raises(DataError, match=r"list_attr_celeba.txt is damaged"):
        celeba.load(tmp_path)
    attributes.write_text(whole)
    partition = tmp_path / "Eval" / celeba.FILES[1]
    partition.write_text(partition.read_text().replace("000002.jpg 0\n", ""))
    with pytest.raises(DataError, match=r"damaged: 000002.jpg is in none of the parts"):
        celeba.load(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken.jpg is damaged"):
        celeba.photo(tmp_path / "broken.jpg", 8)


def test_cifar100_has_fine_labels_and_planes(tmp_path):
    folder = tmp_path / cifar100.FOLDER
    folder.mkdir()
    record = np.arange(3074, dtype=np.int64).astype(np.uint8)
    record[:2] = 7, 93
    for name, count in zip(cifar100.FILES, (3, 2), strict=True):
        np.tile(record, count).tofile(folder / name)
    found = cifar100.load(tmp_path)
    assert found.train_images.shape == (3, 3, 32, 32)
    assert found.test_labels.tolist() == [93, 93]
    assert found.train_images[0, 1, 0, :2].tolist() == [(2 + 1024) % 256, (3 + 1024) % 256]
    (folder / "test.bin").write_bytes(bytes(3000))
    with pytest.raises(DataError, match=r"test.bin is damaged: 3000 bytes are no whole number of 3074-byte"):
        cifar100.load(tmp_path)
    (folder / "test.bin").unlink()
    with pytest.raises(DataError, match=r"cifar100 is in none of .*: train.bin, test.bin must be there"):
        cifar100.load(tmp_path)


def test_imagenet32_is_read_from_all_ten_batches(tmp_path):
    folder = tmp_path / "imagenet32"
    folder.mkdir()
    for number, name in enumerate(imagenet32.FILES):
        data = np.full((2, 3072), number, np.uint8)
        np.savez(folder / name, data=data, labels=np.array([1, 1000]), mean=np.zeros(3072))
    found = imagenet32.load(tmp_path)
    assert found.images.shape == (20, 3, 32, 32)
    assert found.images[6].min() == found.images[6].max() == 3
    assert found.labels.tolist() == [0, 999] * 10
    np.savez(folder / imagenet32.FILES[4], data=np.zeros((2, 3072), np.uint8), labels=np.array([0, 5]))
    with pytest.raises(DataError, match=r"batch_5.npz is damaged: labels go from 0 to 5, not from 1 to 1000"):
        imagenet32.load(tmp_path)
    (folder / imagenet32.FILES[9]).unlink()
    with pytest.raises(DataError, match=r"imagenet32 is in none of .*train_data_batch_10.npz must be there"):
        imagenet32.load(tmp_path)


def test_clothing_is_read_with_colours_first(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    np.savez(tmp_path / clothing.FILE, x_train=images, y_train=np.array([0, 3, 9, 1], np.uint8))
    found = clothing.load(tmp_path)
    np.testing.assert_array_equal(found.images[2, :, 5, 6], images[2, 5, 6])
    assert found.labels.tolist() == [0, 3, 9, 1]
    np.savez(tmp_path / clothing.FILE, x_train=images[:3], y_train=np.array([0, 3, 9, 1], np.uint8))
    with pytest.raises(DataError, match=r"clothing_32x32.npz is damaged: x_train is \[3, 32, 32, 3\]"):
        clothing.load(tmp_path)


@pytest.mark.skipif(not (DATA / clothing.FILE).exists(), reason="clothing is not here")
def test_the_real_clothing_has_its_numbers():
    found = clothing.load(DATA)
    assert found.images.shape == (3068, 3, 32, 32)
    assert set(found.labels.tolist()) == set(range(10))
