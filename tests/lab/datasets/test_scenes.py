"""CamVid and NYUv2: read in their layouts, whole or not at all."""

import io
import os
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from manyloss.lab.checks import DataError
from manyloss.lab.datasets import camvid, nyuv2, rooms, sunrgbd

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
    with pytest.raises(DataError, match=r"depth lacks 1 of 3 files, 1\.npy among them\. Copy the set again"):
        nyuv2.Arrays(tmp_path, "val")
    np.save(tmp_path / "val" / "depth" / "1.npy", np.zeros((4, 6)))
    with pytest.raises(DataError, match=r"1\.npy has the shapes .*\[4, 6\]"):
        nyuv2.Arrays(tmp_path, "val")[1]
    (tmp_path / "val" / "label" / "2.npy").write_bytes(b"half")
    with pytest.raises(DataError, match=r"2\.npy is damaged"):
        nyuv2.Arrays(tmp_path, "val")[2]


def png(array):
    content = io.BytesIO()
    Image.fromarray(array).save(content, "png")
    return content.getvalue()


def write_classes(archive, classes):
    """``classes``: number of a picture -> its classes from 1 (0: unlabelled)."""
    with tarfile.open(archive, "w:gz") as made:
        for number, array in classes.items():
            content = array if isinstance(array, bytes) else png(array)
            member = tarfile.TarInfo(f"new_nyu_class13_{number:04d}.png")
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))


def write_labelled(folder, train=(2, 3, 5), test=(1, 4), size=(24, 32)):
    """The official file as MATLAB writes it, columns first, and the two archives of classes."""
    generator = np.random.default_rng(0)
    height, width = size
    count = len(train) + len(test)
    content = {
        "images": generator.integers(0, 256, (count, 3, width, height), np.uint8),
        "depths": generator.uniform(1, 4, (count, width, height)).astype(np.float32),
    }
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / nyuv2.LABELLED, "w") as made:
        for name, array in content.items():
            made[name] = array
    classes = {number: generator.integers(0, 14, size).astype(np.uint8) for number in sorted((*train, *test))}
    for split, numbers in (("train", train), ("test", test)):
        write_classes(folder / nyuv2.CLASSES[split], {number: classes[number] for number in numbers})
    return content, classes


def test_the_official_nyuv2_is_read_with_its_classes_and_fitted_normals(tmp_path):
    content, classes = write_labelled(tmp_path / "nyuv2")
    train, test = (nyuv2.load(tmp_path, split) for split in ("train", "test"))
    assert (train.numbers, test.numbers) == ([2, 3, 5], [1, 4])
    scene = test[1]
    assert scene.image[7, 9].tolist() == pytest.approx((content["images"][3, :, 9, 7] / 255).tolist())
    assert scene.depth[7, 9] == content["depths"][3, 9, 7]
    np.testing.assert_array_equal(scene.classes, classes[4].astype(int) - 1)
    assert nyuv2.UNLABELLED in scene.classes
    np.testing.assert_array_equal(scene.normals, nyuv2.normals_of(scene.depth, nyuv2.CAMERA))
    # Unpacked is as good.
    (tmp_path / "nyuv2" / nyuv2.CLASSES["test"]).unlink()
    unpacked = tmp_path / "nyuv2" / "nyuv2_test_class13"
    unpacked.mkdir()
    for number in (1, 4):
        (unpacked / f"new_nyu_class13_{number:04d}.png").write_bytes(png(classes[number]))
    np.testing.assert_array_equal(nyuv2.load(tmp_path, "test")[1].classes, scene.classes)


def test_a_part_of_the_official_nyuv2_is_refused(tmp_path):
    write_labelled(tmp_path)
    archive = tmp_path / nyuv2.CLASSES["test"]
    whole = archive.read_bytes()
    archive.unlink()
    with pytest.raises(DataError, match=r"nyuv2 is in none of .*: nyuv2_test_class13.tgz must be there"):
        nyuv2.load(tmp_path, "train")  # which of the pictures are tested decides what is trained on
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"nyuv2_test_class13.tgz is damaged"):
        nyuv2.load(tmp_path, "train")
    array = np.zeros((24, 32), np.uint8)
    for wrong, known in (({1: array}, 4), ({1: array, 4: array, 5: array}, 5), ({1: array, 6: array}, 4)):
        write_classes(archive, wrong)
        with pytest.raises(DataError, match=rf"labeled.mat has 5 pictures; of {known} of them the classes"):
            nyuv2.load(tmp_path, "test")
    write_classes(archive, {1: np.zeros((2, 3), np.uint8), 4: b"half"})
    test = nyuv2.load(tmp_path, "test")
    with pytest.raises(DataError, match=r"picture 1: photo, depth and classes have the shapes .*\[2, 3\]"):
        test[0]
    with pytest.raises(DataError, match=r"nyuv2_test_class13.tgz is damaged: cannot identify"):
        test[1]
    archive.write_bytes(whole)
    with h5py.File(tmp_path / nyuv2.LABELLED, "a") as content:
        del content["depths"]
    with pytest.raises(DataError, match=r"labeled.mat is damaged: .*depths"):
        nyuv2.load(tmp_path, "test")[0]
    mat = tmp_path / nyuv2.LABELLED
    mat.write_bytes(mat.read_bytes()[:500])
    with pytest.raises(DataError, match=r"labeled.mat is damaged: .*truncated"):
        nyuv2.load(tmp_path, "test")
    mat.unlink()
    with pytest.raises(DataError, match=r"nyuv2 is in none of .*: nyu_depth_v2_labeled.mat, nyuv2_train"):
        nyuv2.Labelled(tmp_path)


@pytest.mark.skipif(not (DATA / nyuv2.CLASSES["test"]).exists(), reason="NYUv2's classes are not here")
def test_the_real_classes_name_the_654_official_test_pictures(tmp_path):
    with h5py.File(tmp_path / nyuv2.LABELLED, "w") as made:  # nothing is allocated for it
        made.create_dataset("images", (1449, 3, 640, 480), np.uint8, chunks=(1, 3, 640, 480))
        made.create_dataset("depths", (1449, 640, 480), np.float32, chunks=(1, 640, 480))
    archive = tmp_path / nyuv2.CLASSES["test"]
    archive.symlink_to((DATA / archive.name).resolve())
    with tarfile.open(archive) as opened:
        tested = {int(name[-8:-4]) for name in opened.getnames()}
    rest = {number: b"" for number in range(1, 1450) if number not in tested}
    write_classes(tmp_path / nyuv2.CLASSES["train"], rest)
    test = nyuv2.load(tmp_path, "test")
    assert (len(test), len(nyuv2.load(tmp_path, "train"))) == (654, 795)
    scene = test[0]
    assert test.numbers[:5] == [1, 2, 9, 14, 15]
    assert set(np.unique(scene.classes)) <= {nyuv2.UNLABELLED, *range(13)}
    assert scene.classes.shape == (480, 640)


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


def test_both_ways_to_have_nyuv2_are_named(tmp_path):
    with pytest.raises(DataError) as error:
        nyuv2.load(tmp_path, "test")
    official = "nyu_depth_v2_labeled.mat, nyuv2_train_class13.tgz, nyuv2_test_class13.tgz"
    wanted = f"{tmp_path / 'nyuv2'}: {official}, or else val/image/0.npy ..., val/depth/0.npy ..., "
    assert wanted in str(error.value)
    (tmp_path / nyuv2.LABELLED).write_bytes(b"MATLAB 7.3 MAT-file")
    with pytest.raises(DataError, match=r"nyuv2 is in none of .*: nyuv2_train_class13.tgz must be there"):
        nyuv2.load(tmp_path, "train")


def write_sunrgbd(folder, train=2, test=3):
    """The official tree with the lists and labels of sunrgbd-meta-data."""
    generator = np.random.default_rng(0)
    (folder / sunrgbd.LABELS).mkdir(parents=True)
    names = [f"SUNRGBD/kv2/kinect2data/{i:06d}_resize" for i in range(test + train)]
    for number, name in enumerate(names, start=1):
        scene = folder / name
        for part in ("image", "depth_bfx"):
            (scene / part).mkdir(parents=True)
        Image.fromarray(np.full((4, 6, 3), 40 * number, np.uint8)).save(scene / "image" / f"{number}.jpg")
        millimetres = np.full((4, 6), 1000 * number, np.uint16)
        stored = (millimetres << 3) | (millimetres >> 13)
        Image.fromarray(stored).save(scene / "depth_bfx" / "a.png")
        classes = generator.integers(0, 38, (4, 6)).astype(np.uint8)
        Image.fromarray(classes).save(folder / sunrgbd.LABELS / f"img-{number:06d}.png")
    lines = [f"{name}/image/{number}.jpg\n" for number, name in enumerate(names, start=1)]
    (folder / sunrgbd.LISTS["test"]).write_text("".join(lines[:test]))
    (folder / sunrgbd.LISTS["train"]).write_text("".join(lines[test:]))
    return folder


def test_sun_rgbd_has_its_test_labels_first(tmp_path):
    root = write_sunrgbd(tmp_path / "sunrgbd")
    train, test = sunrgbd.SunRgbd(tmp_path), sunrgbd.SunRgbd(root, "test")
    assert (len(train), len(test)) == (2, 3)
    photo = train[1]
    assert photo.image.shape == (4, 6, 3)
    assert photo.image.mean() == pytest.approx(200, abs=1)  # the fifth
    assert (photo.depth == 5).all()
    written = np.asarray(Image.open(root / sunrgbd.LABELS / "img-000005.png")).astype(int)
    np.testing.assert_array_equal(photo.classes, written - 1)
    coarse = dict(zip(sunrgbd.FINE_CLASSES, sunrgbd.TO_COARSE.tolist(), strict=True))
    assert len(coarse) == 37
    assert set(coarse.values()) == set(range(13))
    assert coarse["wall"] == coarse["door"] == rooms.CLASSES.index("wall")
    assert coarse["bag"] == coarse["lamp"] == rooms.CLASSES.index("objects")


def test_a_part_of_sun_rgbd_is_refused_and_says_where_it_is_offered(tmp_path):
    with pytest.raises(
        DataError, match=r"sunrgbd is in none .*training_images.txt must be there\. .*SUN RGB-D"
    ):
        sunrgbd.SunRgbd(tmp_path)
    root = write_sunrgbd(tmp_path)
    (root / sunrgbd.LABELS / "img-000004.png").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 6 files, .*img-000004.png among them\. .*a part of it"):
        sunrgbd.SunRgbd(tmp_path)
    test = sunrgbd.SunRgbd(tmp_path, "test")
    Image.fromarray(np.zeros((2, 2), np.uint16)).save(test.depths[0])
    with pytest.raises(
        DataError, match=r"1.jpg is damaged: photo, classes and depth have the shapes .*\[2, 2\]"
    ):
        test[0]
    test.depths[1].unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 9 files, .*depth_bfx among them"):
        sunrgbd.SunRgbd(tmp_path, "test")
