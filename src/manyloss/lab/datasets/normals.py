"""Surface normals from a depth map, for sets that have the one and not the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Camera(NamedTuple):
    """A pinhole camera: focal lengths and the centre, in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


def normals_of(depth: npt.NDArray[np.floating], camera: Camera, window: int = 17) -> npt.NDArray[np.float32]:
    """The unit normal of the plane fitted around each pixel, [H, W] in metres -> [H, W, 3].

    A plane has 1 / depth = a x + b y + c for x = (column - cx) / fx and y = (row - cy) / fy, so that
    (a, b, c) is along its normal; they are fitted by least squares to the known pixels of a square of
    ``window`` pixels a side. x points right, y down and z away from the camera; normals point towards it,
    and are 0 where the depth is unknown (0) or too little is known around.
    """
    from scipy.ndimage import uniform_filter

    height, width = depth.shape
    known = depth > 0
    inverse = np.divide(1.0, depth, out=np.zeros(depth.shape), where=known)
    x = np.broadcast_to((np.arange(width) - camera.cx) / camera.fx, depth.shape)
    y = np.broadcast_to(((np.arange(height) - camera.cy) / camera.fy)[:, None], depth.shape)

    def mean(values: Floats) -> Floats:
        found: Floats = uniform_filter(values * known, window, mode="constant")
        return found

    share = mean(np.ones(depth.shape))
    with np.errstate(divide="ignore", invalid="ignore"):
        mx, my, mz = (mean(values) / share for values in (x, y, inverse))
        xx, yy, xy = (
            mean(x * x) / share - mx * mx,
            mean(y * y) / share - my * my,
            mean(x * y) / share - mx * my,
        )
        xz, yz = mean(x * inverse) / share - mx * mz, mean(y * inverse) / share - my * mz
        determinant = xx * yy - xy * xy
        a, b = (xz * yy - yz * xy) / determinant, (yz * xx - xz * xy) / determinant
        normals = -np.stack([a, b, mz - a * mx - b * my], axis=2)
        normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    # Less than a line of known pixels fits no plane.
    fits = known & (share * window**2 > 2 * window) & (determinant > 1e-9 * (xx + yy) ** 2)
    return np.where(fits[:, :, None], normals, 0.0).astype(np.float32)
