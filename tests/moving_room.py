"""A textured box room seen by a hand-held camera whose rows are read one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from slam.camera import Camera
from slam.frame import Image
from slam.rendering import SplineTrajectory, hand_tremor, spline_trajectory
from slam.rendering.motion import tum_poses
from slam.trajectory import Trajectory

WIDTH, HEIGHT = 320, 240
CAMERA = Camera("pinhole", WIDTH, HEIGHT, (262.0, 264.0, 157.0, 121.0))
ROOM = np.array([4.0, 3.5, 2.6])  # m, from the origin
RATE = 30.0  # Hz
TEXEL = 0.006  # m


@dataclass(frozen=True, slots=True)
class Rendered:
    """A sequence with its exact poses."""

    images: list[Image]
    truth: Trajectory  # of the middle row


def hand_held() -> SplineTrajectory:
    """Two seconds of a hand that sways and turns before a corner of the room."""
    times = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
    centres = [
        [1.9, 1.9, 1.4],
        [2.1, 1.7, 1.6],
        [2.4, 1.6, 1.4],
        [2.3, 1.8, 1.2],
        [2.0, 2.0, 1.3],
        [1.8, 1.8, 1.5],
    ]
    targets = [
        [3.7, 3.5, 0.9],
        [3.9, 3.2, 1.1],
        [4.0, 3.4, 0.7],
        [3.8, 3.5, 0.6],
        [3.6, 3.5, 0.9],
        [3.8, 3.3, 1.0],
    ]
    tremor = hand_tremor(3, translation=0.006, rotation=0.012)
    return spline_trajectory(times, np.array(centres), np.array(targets), tremor=tremor)


def render_room(path: SplineTrajectory, frames: int, readout: float) -> Rendered:
    """Args: readout: s from the first row to the last; row times are about the frame's."""
    times = 0.1 + np.arange(frames) / RATE
    walls = list(_wallpapers(np.random.default_rng(5)))
    images = []
    for index, time in enumerate(times):
        rows = (np.arange(HEIGHT) - (HEIGHT - 1) / 2) * readout / HEIGHT
        poses = path.poses(time + rows).numpy()
        rgb = torch.from_numpy(_shade(poses, walls, np.random.default_rng(index)))
        images.append(Image(index, time, time, rgb))
    return Rendered(images, Trajectory(times, tum_poses(path.poses(times))))


def _wallpapers(random: np.random.Generator) -> Iterator[np.ndarray]:
    """Grey patterns [h, w] float32 with detail of all sizes, one for each of the six faces."""
    side = int(max(ROOM) / TEXEL)
    for _ in range(6):
        grey = np.zeros((side, side), np.float32)
        for deviation in (2.0, 4.0, 9.0, 25.0):
            noise = cv2.GaussianBlur(random.normal(size=(side, side)), (0, 0), deviation)
            grey += (noise / noise.std()).astype(np.float32)
        yield 120 + 26 * grey


def _shade(T_WC: np.ndarray, walls: list[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """An image [H, W, 3] uint8 whose rows have poses [H, 4, 4]."""
    fx, fy, cx, cy = CAMERA.intrinsics
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    ray = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(u.shape)], -1)
    ray = np.einsum("vij,vuj->vui", T_WC[:, :3, :3], ray)
    eye = T_WC[:, None, :3, 3]
    reach = np.where(ray > 0, ROOM - eye, -eye) / np.where(np.abs(ray) < 1e-9, 1e-9, ray)
    axis = reach.argmin(-1)
    X = eye + reach.min(-1)[..., None] * ray
    far = np.take_along_axis(ray, axis[..., None], -1)[..., 0] > 0
    grey = np.zeros((HEIGHT, WIDTH), np.float32)
    for face, wall in enumerate(walls):
        here = (axis == face // 2) & (far == face % 2)
        column, row = np.moveaxis(np.delete(X, face // 2, -1) / TEXEL, -1, 0).astype(np.float32)
        grey[here] = cv2.remap(wall, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)[
            here
        ]
    noisy = grey + random.normal(scale=1.0, size=grey.shape)
    return np.repeat(np.clip(noisy.round(), 0, 255).astype(np.uint8)[..., None], 3, -1)
