"""Small scenes for the viewer's tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from slam.config import Config, load_config
from slam.frame import Features, Frame, Intrinsics, InverseDepth, Keyframe, Snapshot
from slam.predictors import Grid
from slam.viewer.scene import Scene, SceneBuilder

if TYPE_CHECKING:
    from slam.viewer.window import Window

SIZE = (80, 60)  # px
INTRINSICS: Intrinsics = (70.0, 75.0, 39.0, 31.0)  # px, all different: a mix-up shows


def pose(x: float, y: float, z: float, a: float, b: float, c: float) -> np.ndarray:
    """[7] of a position and a rotation vector."""
    return np.concatenate([[x, y, z], Rotation.from_rotvec([a, b, c]).as_quat()])


def keyframe(number: int, T_WC: np.ndarray, depth: float = 2.0) -> Keyframe:
    """Sees a plane before it, in noisy colours."""
    grid = Grid(*SIZE, 4)
    make = torch.Generator().manual_seed(number)
    rgb = torch.randint(60, 255, (SIZE[1], SIZE[0], 3), generator=make, dtype=torch.uint8)
    count = len(grid.pixel)
    value = torch.full((count,), 1 / depth)
    trust = torch.linspace(5, 200, count)
    features = Features(rgb[..., 0], rgb, torch.ones(count))
    frame = Frame(number, number / 30, number / 30, features)
    return Keyframe(frame, torch.from_numpy(T_WC), InverseDepth(value, (trust / value) ** 2))


def scene_of(count: int) -> Scene:
    """Keyframes that move to the right, one after the other."""
    keyframes = tuple(keyframe(n, pose(0.3 * n, 0, 0, 0, 0, 0)) for n in range(count))
    return SceneBuilder(Grid(*SIZE, 4)).build(Snapshot(keyframes, (), (), INTRINSICS))


def picture(window: Window) -> np.ndarray:
    """What the map's framebuffer holds, [H, W, 3] uint8, in the screen's own pixels."""
    from PySide6.QtGui import QImage

    image = window.view.grabFramebuffer().convertToFormat(QImage.Format.Format_RGB888)
    data = np.frombuffer(image.constBits(), np.uint8)
    rows = data.reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).astype(int)


def small_config(source: Path, out: Path) -> Config:
    """A run of small images."""
    return load_config(None, [f"source.path={source}", f"run.out={out}", "flow.long_side=200"])
