"""CamVid and NYUv2: read in their layouts, whole or not at all."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyloss.lab.checks import DataError
from manyloss.lab.datasets import camvid, nyuv2

DATA = Path(os.environ.get("MANYLOSS_DATA", "../shared/data"))


def write_camvid(folder, **changed):
    generator = np.random.default_rng(0)
    content = {}
    for name in ("train", "val", "test"):
        content[f"x_{name}"] = generator.integers(0, 256, (3, 6, 8, 3), np.uint8)
        content[f"y_{name}"] = generator.integers(0, 12, (3, 6, 8), np.uint8)
    folder.mkdir(exist_ok=True)
    content = {name: value for name, value in {**content, **changed}.items() if value is not None}
    np.savez(folder / camvid.FILE, **content)
    return content


def test_camvid_is_read_with_coarse_classes(tmp_path):
    written = write_camvid(tmp_path / "camvid")
    found = camvid.load(tmp_path)
    np.testing.assert_array_equal(found.validation.images, written["x_val"])
    np.testing.assert_array_equal(found.test.classes, written["y_test"])
    fine, coarse = found.train.classes, found.train.coarse
    assert set(coarse[fine == camvid.CLASSES.index("pedestrian")]) == {4}
    assert set(coarse[fine == camvid.UNLABELLED]) == {len(camvid.COARSE_CLASSES)}


def test_missing_and_damaged_camvid_is_named(tmp_path):
    with pytest.raises(DataError, match=r"camvid is in none of .*: camvid_120x160.npz must be there"):
        camvid.load(tmp_path)
    write_camvid(tmp_path, y_val=None)
    with pytest.raises(DataError, match=r"camvid_120x160.npz is damaged: .*y_val"):
        camvid.load(tmp_path)
    write_camvid(tmp_path, y_val=np.full((3, 6, 8), 12, np.uint8))
    with pytest.raises(DataError, match=r"x_val is \[3, 6, 8, 3\], y_val \[3, 6, 8\] up to 12"):
        camvid.load(tmp_path)


@pytest.mark.skipif(not (DATA / camvid.FILE).exists(), reason="CamVid is not here")
def test_the_real_camvid_has_the_published_numbers():
    found = camvid.load(DATA)
    assert [len(part.images) for part in found] == [367, 101, 233]
    road = np.argwhere(found.train.classes == camvid.CLASSES.index("road"))
    sky = np.argwhere(found.train.classes == camvid.CLASSES.index("sky"))
    assert road[:, 1].mean() > 80 > 50 > sky[:, 1].mean()


def write_nyuv2(folder, count=3):
    generator = np.random.default_rng(0)
    shapes = {"image": (4, 6, 3), "depth": (4, 6, 1), "normal": (4, 6, 3)}
    for part in nyuv2.PARTS:
        (folder / part).mkdir(parents=True)
        for number in range(count):
            array = generator.integers(-1, 13, (4, 6)) if part == "label" else generator.random(shapes[part])
            np.save(folder / part / f"{number}.npy", array)


def test_nyuv2_arrays_are_read_in_order(tmp_path):
    write_nyuv2(tmp_path / "nyuv2" / "train", count=11)
    split = nyuv2.Arrays(tmp_path)
    assert len(split) == 11
    assert split.names[:3] == ["0.npy", "1.npy", "2.npy"]
    scene = split[10]
    assert scene.image.shape == scene.normals.shape == (4, 6, 3)
    assert scene.depth.shape == scene.classes.shape == (4, 6)
    np.testing.assert_array_equal(scene.classes, np.load(tmp_path / "nyuv2" / "train" / "label" / "10.npy"))


def test_a_part_of_nyuv2_is_refused_and_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nyuv2 is in none of .*: val/image/0.npy \.\.\., val/depth"):
        nyuv2.Arrays(tmp_path, "val")
    write_nyuv2(tmp_path / "val")
    (tmp_path / "val" / "depth" / "1.npy").unlink()
    with pytest.raises(
        DataError, match=r"depth lacks 1 of 3 files, 1\.npy among them\. Copy the folder again"
    ):
        nyuv2.Arrays(tmp_path, "val")
    np.save(tmp_path / "val" / "depth" / "1.npy", np.zeros((4, 6)))
    with pytest.raises(DataError, match=r"1\.npy has the shapes .*\[4, 6\]"):
        nyuv2.Arrays(tmp_path, "val")[1]
    (tmp_path / "val" / "label" / "2.npy").write_bytes(b"half")
    with pytest.raises(DataError, match=r"2\.npy is damaged"):
        nyuv2.Arrays(tmp_path, "val")[2]


def test_nyuv2_pictures_are_scaled_and_incomplete_scenes_left_out(tmp_path):
    with pytest.raises(DataError, match=r"nyuv2 is in none of .*: NAME.png, depth_gt_NAME.png"):
        nyuv2.pictures(tmp_path)
    Image.fromarray(np.full((2, 3, 3), 255, np.uint8)).save(tmp_path / "7.png")
    Image.fromarray(np.full((2, 3), 10_000, np.uint16)).save(tmp_path / "depth_gt_7.png")
    Image.fromarray(np.full((2, 3, 3), 255, np.uint8)).save(tmp_path / "norm_gt_7.png")
    Image.fromarray(np.array([[0, 5, 255]] * 2, np.uint8)).save(tmp_path / "segm_gt_7.png")
    Image.fromarray(np.zeros((2, 3), np.uint16)).save(tmp_path / "depth_gt_8.png")
    ((name, scene),) = nyuv2.pictures(tmp_path).items()
    assert name == "7"
    assert (scene.image == 1).all()
    assert (scene.depth == 2).all()
    assert (scene.normals == 1).all()
    assert scene.classes[0].tolist() == [0, 5, nyuv2.UNLABELLED]


@pytest.mark.skipif(not (DATA / "nyuv2_one").exists(), reason="NYUv2's samples are not here")
def test_real_nyuv2_samples_hold_metres_and_unit_vectors():
    found = nyuv2.pictures(DATA / "nyuv2_one")
    assert found
    for scene in found.values():
        assert scene.image.shape == (480, 640, 3)
        known = scene.depth[scene.depth > 0]
        assert 0.4 < known.min() < known.max() < 10
        lengths = np.linalg.norm(scene.normals, axis=2)
        assert np.median(lengths[lengths > 0.5]) == pytest.approx(1, abs=0.02)
