"""Which images of a sequence see the same place: overlap from true depth and true poses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from slam.config import Config
from slam.corners import orb
from slam.predictors.factory import make_predictor
from slam.rendering import render_depth, sample_times, sample_trajectory
from slam.rendering.rooms import sample_room_builder
from slam.sources import Source, open_source
from slam.sources.ground_truth import matrices_from_poses

SAMPLE = Path(__file__).parents[1] / "datasets" / "sample"
COARSE = 12  # px of the working image to one of the depths compared


@dataclass(frozen=True, slots=True)
class Places:
    """Images of one sequence, in order."""

    descriptors: list[np.ndarray]  # of each, [n, 32] uint8: ORB
    overlap: np.ndarray  # [N, N], share of i's pixels that j sees too, the smaller of both ways


def sample_places(stride: int) -> Places:
    """Every `stride`-th image of the bundled sample."""
    source = open_source(SAMPLE, stride=stride)
    T_WC = sample_trajectory().poses(sample_times()[source.indices])
    surfaces = tuple(sample_room_builder().surfaces)
    size, intrinsics = (40, 30), (525 / 16, 525 / 16, 19.5, 14.5)
    depths = [render_depth(surfaces, intrinsics, *size, pose).numpy() for pose in T_WC]
    return Places(describe(source), overlaps(np.array(depths), T_WC.double().numpy(), intrinsics))


def describe(source: Source) -> list[np.ndarray]:
    """ORB descriptors of every image, as the system computes them."""
    config = Config()
    predictor = make_predictor(source.camera.width, source.camera.height, config)
    features = (predictor.encode(image) for image in source.images())
    return [orb(f, config.relocalization.features).descriptor for f in features]


def overlaps(
    depth: np.ndarray, T_WC: np.ndarray, intrinsics: tuple[float, float, float, float]
) -> np.ndarray:
    """Overlap [N, N] of depth maps.

    Args: depth: [N, h, w] m, 0 = unknown; T_WC: [N, 4, 4]; intrinsics: of the depth maps.
    """
    one_way = np.stack([_seen(depth, T_WC, intrinsics, i) for i in range(len(depth))])
    return np.minimum(one_way, one_way.T)


def _seen(depth: np.ndarray, T_WC: np.ndarray, intrinsics: tuple, i: int) -> np.ndarray:
    """Share of image i's pixels [N] that every image sees, of those known in both."""
    fx, fy, cx, cy = intrinsics
    _, height, width = depth.shape
    v, u = np.nonzero(depth[i])
    z = depth[i][v, u]
    X_i = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z, np.ones_like(z)])
    X = np.linalg.inv(T_WC) @ T_WC[i] @ X_i  # [N, 4, n]
    z = np.maximum(X[:, 2], 1e-9)
    column = np.rint(fx * X[:, 0] / z + cx).clip(-1, width).astype(int)
    row = np.rint(fy * X[:, 1] / z + cy).clip(-1, height).astype(int)
    inside = (X[:, 2] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    image = np.arange(len(depth))[:, None]
    there = depth[image, row.clip(0, height - 1), column.clip(0, width - 1)]
    seen = inside & (np.abs(z - there) < 0.1 * z)
    unknown = inside & (there == 0)
    return seen.sum(1) / np.maximum((~unknown).sum(1), 1)


# --- EuRoC's stereo keyframes --------------------------------------------------------------------


def euroc_places(folder: Path) -> Places:
    """Stereo pairs in EuRoC's layout with ground truth: depth of semi-global matching."""
    source = open_source(folder)
    camera = _Rectified.read(folder / "mav0")
    truth = source.ground_truth
    assert truth is not None
    nearest = np.abs(truth.times[None] - source.times[:, None])
    assert nearest.min(1).max() < 0.01  # s
    T_WC = matrices_from_poses(truth.poses[nearest.argmin(1)]) @ camera.T_CR
    depth = np.array([camera.depth(*pair) for pair in _pairs(folder / "mav0")])
    return Places(describe(source), overlaps(depth, T_WC, camera.intrinsics))


def _pairs(mav: Path) -> list[tuple[Path, Path]]:
    sides = [sorted((mav / camera / "data").iterdir()) for camera in ("cam0", "cam1")]
    assert [p.name for p in sides[0]] == [p.name for p in sides[1]]
    return list(zip(*sides, strict=True))


@dataclass(frozen=True, slots=True)
class _Rectified:
    """A stereo camera whose rows are epipolar lines, at half the resolution."""

    maps: list[tuple[np.ndarray, np.ndarray]]  # of cv2.remap, left and right
    P: np.ndarray  # [3, 4] of the right camera
    T_CR: np.ndarray  # [4, 4]: takes points of the rectified left camera to the left camera

    @classmethod
    def read(cls, mav: Path) -> _Rectified:
        sensors = [_sensor(mav / camera / "sensor.yaml") for camera in ("cam0", "cam1")]
        (K0, d0, T_B0, size), (K1, d1, T_B1, _) = sensors
        T_10 = np.linalg.inv(T_B1) @ T_B0
        half = (size[0] // 2, size[1] // 2)
        R0, R1, P0, P1, *_ = cv2.stereoRectify(
            K0, d0, K1, d1, size, T_10[:3, :3], T_10[:3, 3:], alpha=0, newImageSize=half
        )
        maps = [
            cv2.initUndistortRectifyMap(K, d, R, P, half, cv2.CV_32FC1)
            for K, d, R, P in ((K0, d0, R0, P0), (K1, d1, R1, P1))
        ]
        T_CR = np.eye(4)
        T_CR[:3, :3] = R0.T
        return cls(maps, P1, T_CR)

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """Of the coarse depth maps."""
        shift = (COARSE // 2 - 0.0) / COARSE
        fx, fy, cx, cy = self.P[0, 0], self.P[1, 1], self.P[0, 2], self.P[1, 2]
        return fx / COARSE, fy / COARSE, cx / COARSE - shift, cy / COARSE - shift

    def depth(self, left: Path, right: Path) -> np.ndarray:
        """Every COARSE-th pixel of the depth, m; 0 = unknown."""
        images = [
            cv2.remap(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), *maps, cv2.INTER_LINEAR)
            for path, maps in zip((left, right), self.maps, strict=True)
        ]
        matcher = cv2.StereoSGBM.create(
            0,
            48,
            5,
            P1=200,
            P2=800,
            disp12MaxDiff=1,
            uniquenessRatio=10,
            speckleWindowSize=50,
            speckleRange=2,
        )
        disparity = matcher.compute(*images)[COARSE // 2 :: COARSE, COARSE // 2 :: COARSE] / 16.0
        known = disparity > 0.5
        return np.where(known, -self.P[0, 3] / np.where(known, disparity, 1), 0)


def _sensor(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("%YAML")]
    sensor = yaml.safe_load("\n".join(lines))
    fx, fy, cx, cy = sensor["intrinsics"]
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    T_BC = np.array(sensor["T_BS"]["data"], np.float64).reshape(4, 4)
    return K, np.array(sensor["distortion_coefficients"]), T_BC, tuple(sensor["resolution"])
