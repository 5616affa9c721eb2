"""Images of boards, rendered through our own camera models from exact poses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
import torch
from scipy.interpolate import RectBivariateSpline
from scipy.spatial.transform import Rotation

from slam.calibration import Board
from slam.camera import Camera

PIXELS = 2  # of a board's picture, a mm
OVERSAMPLED = 2  # rays each way through a pixel
MARGIN = 25.0  # mm of paper round a board
GROUND = 90  # grey level of what is behind it


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a board's middle is seen, how far away, and how it is turned."""

    pixel: tuple[float, float]  # (u, v), of the image's width and height
    distance: float  # mm
    turn: tuple[float, float, float]  # rad: about x, y, z; 0 = seen from the front


def board_picture(board: Board) -> tuple[np.ndarray, np.ndarray]:
    """What is printed, [H, W] uint8, and where the board's first corner is in it [2], mm."""
    square = board.square * PIXELS
    margin = round(MARGIN * PIXELS)
    if board.kind == "charuco":
        size = round(board.columns * square), round(board.rows * square)
        printed = board.charuco.generateImage(size)
        first = np.array([0.0, 0.0])
    else:
        columns, rows = board.columns + 1, board.rows + 1
        column, row = np.meshgrid(
            *(np.arange(round(n * square)) // square for n in (columns, rows))
        )
        printed = np.where((column + row) % 2 == 0, 20, 235).astype(np.uint8)
        first = np.array([board.square, board.square])
    paper = cv2.copyMakeBorder(printed, *[margin] * 4, cv2.BORDER_CONSTANT, value=235)
    return paper, first + MARGIN


class Renderer:
    """Renders one board as one camera sees it."""

    def __init__(self, camera: Camera, board: Board) -> None:
        self.camera, self.board = camera, board
        self.paper, self.first = board_picture(board)
        self.rays = _fine_rays(camera)

    def render(
        self, pose: Pose, *, seed: int = 0, noise: float = 2.0, blur: float = 0.6
    ) -> np.ndarray:
        """[H, W] uint8, with blur (sigma, px) and noise (grey levels)."""
        columns, rows = self._middle()
        target = np.array(pose.pixel) * (self.camera.width, self.camera.height)
        ray = self.camera.unproject(torch.from_numpy(target)).numpy()
        t = ray / np.linalg.norm(ray) * pose.distance
        R = Rotation.from_euler("xyz", pose.turn).as_matrix()
        depth = (R[:, 2] @ t) / (self.rays @ R[:, 2])
        X = (self.rays * depth[..., None] - t) @ R  # on the board, from its middle
        place = (X[..., :2] + (columns, rows) + self.first) * PIXELS - 0.5
        place[~(depth > 0)] = -1e6
        maps = place[..., 0].astype(np.float32), place[..., 1].astype(np.float32)
        fine = cv2.remap(self.paper, *maps, cv2.INTER_LINEAR, borderValue=GROUND)
        size = self.camera.width, self.camera.height
        image = cv2.resize(fine, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        image = cv2.GaussianBlur(image, (0, 0), blur) if blur else image
        image += np.random.default_rng(seed).normal(0, noise, image.shape)
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)

    def _middle(self) -> tuple[float, float]:
        """Of the board from its first corner, mm."""
        less = 1 if self.board.kind == "checkerboard" else 0
        square = self.board.square
        return (self.board.columns - less) * square / 2, (self.board.rows - less) * square / 2


def _fine_rays(camera: Camera) -> np.ndarray:
    """[H, W, 3] at z = 1 of every OVERSAMPLED-th of a pixel: splines through some, to 1e-5 px."""
    size = camera.width, camera.height
    u, v = (np.linspace(-1, n, n // 5 + 1) for n in size)
    nodes = np.stack(np.meshgrid(u, v), axis=-1)
    known = camera.unproject(torch.from_numpy(nodes)).numpy()
    fine = [(np.arange(n * OVERSAMPLED) + 0.5) / OVERSAMPLED - 0.5 for n in size]
    x, y = (RectBivariateSpline(v, u, known[..., k])(fine[1], fine[0]) for k in (0, 1))
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def spread_poses(near: float, far: float) -> list[Pose]:
    """18 boards all over the image, tilted each another way. Args: in mm."""
    poses = []
    for n, (u, v) in enumerate(product((0.27, 0.5, 0.73), repeat=2)):
        for distance, tilt in ((near, 0.5), (far, -0.45)):
            angle = 2.4 * len(poses)
            turn = tilt * np.cos(angle), tilt * np.sin(angle), 0.25 * np.sin(1.7 * n)
            shift = 0.06 * np.sin(3.1 * len(poses))
            poses.append(Pose((u + shift, v - shift), distance, turn))
    return poses
