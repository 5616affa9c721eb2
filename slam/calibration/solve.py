"""The camera that explains views of a board, how sure its parameters are, and views that lie."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from slam.calibration.boards import View
from slam.camera import COEFFICIENTS, Camera

log = logging.getLogger(__name__)

FEWEST = 6  # views
ROUNDS = 5  # of throwing views out
OUTLYING = 3.5  # robust standard deviations above the median error of a view
TWICE = 1.8  # times the median error, that an outlier has at least
LEAST_ERROR = 0.1  # px, below which no view is an outlier
MAD_SIGMA = 1.4826  # standard deviations in a median absolute deviation
NAMES = {
    "pinhole": (),
    "radtan": ("k1", "k2", "p1", "p2", "k3"),
    "kannala_brandt": ("k1", "k2", "k3", "k4"),
}


@dataclass(frozen=True, slots=True)
class Solution:
    """A camera, and what it leaves unexplained of the views that it was solved from."""

    camera: Camera
    sigma: dict[str, float]  # fx, fy, cx, cy in px and the distortion's coefficients: 1 sigma
    views: tuple[View, ...]  # that it was solved from
    rejected: tuple[View, ...]  # that were thrown out
    residuals: tuple[np.ndarray, ...]  # [n, 2] px of each view: measured minus projected
    tilts: np.ndarray  # [V] rad, between each board's normal and the optical axis

    @property
    def rms(self) -> float:
        """Reprojection error, root mean square of the corners' distances, px."""
        return _rms(np.concatenate(self.residuals))

    @property
    def view_rms(self) -> np.ndarray:
        """[V] the same of each view."""
        return np.array([_rms(r) for r in self.residuals])


def solve(views: Sequence[View], model: str, size: tuple[int, int]) -> Solution:
    """Solves for a camera; views that do not agree with the others are thrown out, and it anew.

    Args: model: as Camera.model. size: (width, height) px.
    Raises ValueError for an unknown model, fewer than FEWEST views, and where there is no solution.
    """
    expect_model(model)
    kept, rejected = list(views), []
    _expect_enough(kept, rejected)
    solution = _solve_once(kept, model, size)
    for _ in range(ROUNDS):
        outlying = _outliers(solution.view_rms)
        if not outlying.any():
            break
        rejected += [view for view, out in zip(kept, outlying, strict=True) if out]
        kept = [view for view, out in zip(kept, outlying, strict=True) if not out]
        _expect_enough(kept, rejected)
        solution = _solve_once(kept, model, size)
    for view in rejected:
        log.info("%s: thrown out, it does not agree with the other views", view.name)
    return Solution(
        solution.camera,
        solution.sigma,
        solution.views,
        tuple(rejected),
        solution.residuals,
        solution.tilts,
    )


def expect_model(model: str) -> None:
    """Raises ValueError for one that Camera does not know."""
    if model not in COEFFICIENTS:
        raise ValueError(f"camera model: wanted {', '.join(COEFFICIENTS)}, got '{model}'")


def _expect_enough(kept: Sequence[View], rejected: Sequence[View]) -> None:
    if len(kept) < FEWEST:
        out = f", and {len(rejected)} that contradict them" if rejected else ""
        raise ValueError(
            f"wanted {FEWEST} or more views of the board that differ, got {len(kept)}{out}; film "
            "it from more sides, and see --every"
        )


def _outliers(view_rms: np.ndarray) -> np.ndarray:
    """[V] bool: whose error stands out from the others'."""
    median = float(np.median(view_rms))
    spread = MAD_SIGMA * float(np.median(np.abs(view_rms - median)))
    return view_rms > max(median + OUTLYING * spread, TWICE * median, LEAST_ERROR)


def _solve_once(views: Sequence[View], model: str, size: tuple[int, int]) -> Solution:
    try:
        K, distortion, rvecs, tvecs = _opencv(views, model, size)
    except cv2.error as error:
        raise ValueError(
            f"{model}: wanted views that determine a camera, OpenCV found none to fit these "
            f"{len(views)}; film the board from more sides, or see --model"
        ) from error
    focal_centre = float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])
    coefficients = tuple(float(k) for k in distortion.ravel()[: len(NAMES[model])])
    camera = Camera(model, *size, focal_centre, coefficients)
    residuals, jacobians = [], []
    for view, rvec, tvec in zip(views, rvecs, tvecs, strict=True):
        projected, jacobian = _project(view, rvec, tvec, K, distortion, model)
        residuals.append(view.pixel - projected)
        jacobians.append(jacobian)
    names: list[str] = ["fx", "fy", "cx", "cy", *NAMES[model]]
    deviations = _deviations(jacobians, residuals, len(names))
    sigma = dict(zip(names, deviations.tolist(), strict=True))
    tilts = np.array([_tilt(rvec) for rvec in rvecs])
    return Solution(camera, sigma, tuple(views), (), tuple(residuals), tilts)


def _opencv(
    views: Sequence[View], model: str, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, Sequence[np.ndarray], Sequence[np.ndarray]]:
    """K [3, 3], distortion, and rotation vectors and translations of the boards."""
    if model == "kannala_brandt":
        X = [v.X_B.reshape(1, -1, 3) for v in views]
        pixel = [v.pixel.reshape(1, -1, 2) for v in views]
        flags = _fisheye_flag("CALIB_RECOMPUTE_EXTRINSIC") | _fisheye_flag("CALIB_FIX_SKEW")
        stop = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 200, 1e-10)
        K, D = np.eye(3), np.zeros((4, 1))
        done = cv2.fisheye.calibrate(X, pixel, size, K, D, flags=flags, criteria=stop)
    else:
        X = [v.X_B.astype(np.float32) for v in views]
        pixel = [v.pixel.astype(np.float32) for v in views]
        flags = 0
        if model == "pinhole":
            flags = cv2.CALIB_ZERO_TANGENT_DIST
            flags |= cv2.CALIB_FIX_K1 | cv2.CALIB_FIX_K2 | cv2.CALIB_FIX_K3
        K, D = np.eye(3), np.zeros(5)
        done = cv2.calibrateCamera(X, pixel, size, K, D, flags=flags)
    return np.asarray(done[1]), np.asarray(done[2]), done[3], done[4]


def _fisheye_flag(name: str) -> int:
    """OpenCV 4 keeps them in cv2.fisheye, OpenCV 5 in cv2, with other values."""
    return int(getattr(cv2.fisheye if hasattr(cv2.fisheye, name) else cv2, name))


def _project(
    view: View, rvec: np.ndarray, tvec: np.ndarray, K: np.ndarray, D: np.ndarray, model: str
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [n, 2], and their derivative [2 n, P + 6] by camera parameters, then by the pose."""
    if model == "kannala_brandt":
        X = view.X_B.reshape(1, -1, 3)
        pixel, J = cv2.fisheye.projectPoints(X, rvec, tvec, K, D)[:2]
        return pixel.reshape(-1, 2), J[:, :14]  # f c k, rotation, translation; then the skew
    pixel, J = cv2.projectPoints(view.X_B, rvec, tvec, K, D)[:2]
    parameters = 4 + len(NAMES[model])
    return pixel.reshape(-1, 2), np.hstack([J[:, 6 : 6 + parameters], J[:, :6]])


def _deviations(
    jacobians: Sequence[np.ndarray], residuals: Sequence[np.ndarray], parameters: int
) -> np.ndarray:
    """[P] standard deviations of camera parameters, the boards' poses being unknown too.

    They are those of least squares: the corners' noise is what the residuals say it is.
    """
    information = np.zeros((parameters, parameters))
    for J in jacobians:
        camera, pose = J[:, :parameters], J[:, parameters:]
        explained = pose @ np.linalg.lstsq(pose, camera, rcond=None)[0]
        information += camera.T @ (camera - explained)
    every = np.concatenate(residuals)
    freedom = every.size - parameters - 6 * len(residuals)
    variance = float((every**2).sum()) / max(freedom, 1)
    scale = np.sqrt(np.maximum(np.diag(information), 1e-300))
    covariance = np.linalg.pinv(information / np.outer(scale, scale), hermitian=True)
    return np.sqrt(variance * np.maximum(np.diag(covariance), 0)) / scale


def _tilt(rvec: np.ndarray) -> float:
    """Angle between a board's normal and the optical axis, rad."""
    normal = cv2.Rodrigues(rvec)[0][2, 2]
    return math.acos(min(abs(float(normal)), 1.0))


def _rms(residuals: np.ndarray) -> float:
    return float(np.sqrt((residuals**2).sum(axis=1).mean()))
