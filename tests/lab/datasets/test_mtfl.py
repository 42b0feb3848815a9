"""MTFL's files are read whole or not at all; made faces have the same kind of labels."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyloss.lab.checks import DataError
from manyloss.lab.datasets import mtfl

DATA = Path(os.environ.get("MANYLOSS_DATA", "../shared/data"))


def write(folder, size=40, **changed):
    """A file in the layout of the real one, from made faces; its faces."""
    faces = mtfl.made(6, 4, size=size)
    content = {}
    for split, found in faces._asdict().items():
        content |= {f"landmarks_{split}": found.landmarks, f"attributes_{split}": found.attributes}
        if size == 40:
            content[f"x_{split}"] = found.images
            continue
        files = []
        for image in found.images:
            Image.fromarray(image).save(buffer := io.BytesIO(), "JPEG", quality=95)
            files.append(np.frombuffer(buffer.getvalue(), np.uint8))
        content[f"jpeg_{split}"] = np.concatenate(files)
        content[f"offset_{split}"] = np.cumsum([0, *map(len, files)])
    folder.mkdir(exist_ok=True)
    content = {name: value for name, value in {**content, **changed}.items() if value is not None}
    np.savez(folder / f"mtfl_faces_{size}.npz", **content)
    return faces


@pytest.mark.parametrize("size", mtfl.SIZES)
def test_both_layouts_give_the_faces_that_were_written(tmp_path, size):
    written = write(tmp_path / "mtfl", size)
    found = mtfl.load(tmp_path, size)
    for there, here in zip(found, written, strict=True):
        np.testing.assert_array_equal(there.landmarks, here.landmarks)
        np.testing.assert_array_equal(there.attributes, here.attributes)
        assert there.images.shape == here.images.shape
        assert np.abs(there.images.astype(int) - here.images.astype(int)).mean() < (1 if size == 40 else 8)


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no faces of 80 pixels\. Known: 40, 160"):
        mtfl.load(tmp_path, 80)
    with pytest.raises(DataError, match=r"mtfl is in none of .*: mtfl_faces_40.npz must be there\."):
        mtfl.load(tmp_path)
    write(tmp_path, landmarks_test=None)
    with pytest.raises(DataError, match=r"mtfl_faces_40.npz is damaged: .*landmarks_test"):
        mtfl.load(tmp_path)
    write(tmp_path, landmarks_test=np.zeros((3, 5, 2)))
    with pytest.raises(DataError, match=r"is damaged: the test split has .*\(3, 5, 2\).*not .*\(4, 5, 2\)"):
        mtfl.load(tmp_path)
    (tmp_path / "mtfl_faces_40.npz").write_bytes(b"PK\x03\x04 half of a file")
    with pytest.raises(DataError, match=r"mtfl_faces_40.npz is damaged"):
        mtfl.load(tmp_path)


def test_made_faces_repeat_with_the_seed_and_show_what_their_labels_say():
    one, other = mtfl.made(32, 4), mtfl.made(32, 4)
    np.testing.assert_array_equal(one.train.images, other.train.images)
    assert (mtfl.made(32, 4, seed=1).train.images != one.train.images).any()
    faces = mtfl.made(200, 1).train
    assert ((faces.landmarks > 0) & (faces.landmarks < 1)).all()
    columns, rows = (40 * faces.landmarks[:, 0]).astype(int).T
    eyes = faces.images[np.arange(200), rows, columns]
    assert np.median(eyes) < np.median(faces.images) - 25
    assert {len(np.unique(column)) for column in faces.attributes.T} == {2, 5}


@pytest.mark.skipif(not (DATA / "mtfl_faces_40.npz").exists(), reason="the faces are not here")
def test_the_real_faces_have_the_published_numbers():
    found = mtfl.load(DATA)
    assert len(found.train.images) == 10_000
    assert len(found.test.images) == 2_995
    glasses, pose = found.test.attributes[:, 2], found.test.attributes[:, 3]
    assert (glasses == 1).mean() == pytest.approx(0.081, abs=0.001)  # the paper's error of the majority
    assert (pose != mtfl.FRONTAL).mean() == pytest.approx(0.389, abs=0.003)
    eyes = found.train.landmarks[:, :2]
    assert (eyes[:, 0, 0] < eyes[:, 1, 0]).mean() > 0.99
    np.testing.assert_allclose(found.train.landmarks.mean(0), mtfl.MEAN_SHAPE, atol=6e-4)
