"""Made point clouds: the same for a seed and index, on surfaces, with shadows; Waymo in KITTI's layout."""

import numpy as np
import pytest

from manyloss.lab.boxes import overlaps
from manyloss.lab.checks import DataError
from manyloss.lab.datasets import lidar, waymo


@pytest.fixture(scope="module")
def clouds():
    return [lidar.scan(0, index) for index in range(6)]


def inside(points, box, margin):
    away = points[:, :2] - box[:2]
    c, s = np.cos(box[6]), np.sin(box[6])
    along, across = c * away[:, 0] + s * away[:, 1], c * away[:, 1] - s * away[:, 0]
    flat = (np.abs(along) < box[3] / 2 + margin) & (np.abs(across) < box[4] / 2 + margin)
    return flat & (np.abs(points[:, 2] - box[2]) < box[5] / 2 + margin)


def test_a_cloud_is_a_function_of_seed_and_index(clouds):
    for one, other in zip(clouds[3], lidar.scan(0, 3), strict=True):
        np.testing.assert_array_equal(one, other)
    assert lidar.scan(1, 3).points.shape != clouds[3].points.shape
    assert lidar.scan(0, 2, reach=10).boxes.shape[1] == 7


def test_what_a_cloud_holds(clouds):
    for points, boxes in clouds:
        assert points.dtype == boxes.dtype == np.float32
        assert len(points) > 4000
        assert points[:, 3].min() >= 0
        assert points[:, 3].max() <= 1
        assert (np.abs(boxes[:, :2]) <= 20).all()
        np.testing.assert_allclose(boxes[:, 2], boxes[:, 5] / 2, atol=1e-5)  # they stand on the ground
        shared = overlaps(boxes.astype(float), boxes.astype(float))
        np.testing.assert_allclose(shared, np.eye(len(boxes)), atol=1e-6)
        ground = np.abs(points[:, 2]) < 0.05
        assert 0.3 < ground.mean() < 0.95
    assert sum(len(boxes) for _, boxes in clouds) > 12


def test_points_lie_on_the_faces_that_the_scanner_sees(clouds):
    for points, boxes in clouds:
        for box in boxes:
            on = points[inside(points, box, 0.1)]
            assert len(on) >= lidar.LEAST_POINTS
            assert not inside(on[on[:, 2] < 0.4 * box[5]], [*box[:3], *(box[3:6] - 0.3), box[6]], 0).any()
            nearer = np.hypot(on[:, 0], on[:, 1]).mean() < np.hypot(box[0], box[1]) + 0.3
            assert nearer or len(on) < 30


def test_nothing_is_seen_in_a_shadow(clouds):
    for points, boxes in clouds:
        for box in boxes:
            if np.hypot(box[0], box[1]) > 10:
                continue
            # behind the middle of the vehicle's lower half, as seen by the scanner
            middle = np.array([*box[:2], 0.25 * box[5]]) - [0, 0, lidar.SENSOR_HEIGHT]
            rays = points[:, :3] - [0, 0, lidar.SENSOR_HEIGHT]
            distance = np.linalg.norm(rays, axis=1)
            cos = rays @ middle / distance / np.linalg.norm(middle)
            assert not ((cos > np.cos(0.02)) & (distance > np.linalg.norm(middle) + 1.0)).any()


# -- Waymo's frames as KITTI's files --------------------------------------------------------------------


def write_waymo(folder, numbers=6, labels="label_all", frames=("0000000", "0000001", "0001000")):
    for part in ("velodyne", labels, "calib"):
        (folder / "training" / part).mkdir(parents=True)
    (folder / "ImageSets").mkdir()
    (folder / "ImageSets" / "train.txt").write_text("\n".join(frames[:2]))
    (folder / "ImageSets" / "val.txt").write_text(frames[2] + "\n")
    # camera axes: right, down, ahead; the points': ahead, left, up, 2 m below the camera
    moved = "0 -1 0 0  0 0 -1 2  1 0 0 0"
    for name in frames:
        points = np.zeros((5, numbers), np.float32)
        points[:, :4] = [[10, 2, 1, 0.5]] * 4 + [[1, 0, 0, 9]]
        points.tofile(folder / "training" / "velodyne" / f"{name}.bin")
        calibration = f"P0: {' '.join(['0'] * 12)}\nR0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam_0: {moved}\n"
        (folder / "training" / "calib" / f"{name}.txt").write_text(calibration)
        rest = "0.00 0 -10 0 0 0 0"
        lines = [
            f"Car {rest} 1.5 2.0 4.5 -2.0 2.0 10.0 -1.5707963",  # it drives ahead
            f"Pedestrian {rest} 1.7 0.6 0.6 1.0 2.0 5.0 0.0",
            f"Vehicle {rest} 1.6 1.9 4.0 3.0 2.0 8.0 0.0",  # it drives to the right
        ]
        (folder / "training" / labels / f"{name}.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(("numbers", "labels"), [(6, "label_all"), (4, "label_2")])
def test_waymos_frames_are_read_in_the_points_axes(tmp_path, numbers, labels):
    write_waymo(tmp_path / "waymo" / "kitti_format", numbers, labels)
    frames = waymo.load(tmp_path, numbers)
    assert [len(part) for part in frames] == [2, 1]
    points, boxes = frames.test[0].read()
    assert points.shape == (5, 4)
    assert points[:, 3].max() <= 1
    np.testing.assert_allclose(
        boxes,
        [[10, 2, 0.75, 4.5, 2.0, 1.5, 0.0], [8, -3, 0.8, 4.0, 1.9, 1.6, -np.pi / 2]],
        atol=1e-5,
    )


def test_a_part_of_waymo_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"waymo is in none of .*: ImageSets/train.txt, .*label_all must be there"
    ):
        waymo.load(tmp_path)
    write_waymo(tmp_path)
    points = tmp_path / "training" / "velodyne" / "0001000.bin"
    points.write_bytes(bytes(28))
    with pytest.raises(DataError, match=r"0001000.bin is damaged: 7 numbers, not 6 per point"):
        waymo.load(tmp_path).test[0].read()
    calibration = tmp_path / "training" / "calib" / "0000000.txt"
    calibration.write_text("R0_rect: 1 0 0")
    with pytest.raises(DataError, match=r"0000000.txt is damaged"):
        waymo.load(tmp_path).train[0].read()
    calibration.unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 6 files, .*0000000.txt among them"):
        waymo.load(tmp_path)
    with pytest.raises(DataError, match="A point has 4, 5 or 6 numbers, not 3"):
        waymo.load(tmp_path, 3)
