"""The surfaces and lamps a scene is made of, and their poses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from torch import Tensor


class Shape(Enum):
    """The surfaces a ray can meet; each in its own object frame."""

    RECTANGLE = "rectangle"  # |x| <= a, |y| <= b in the plane z = 0
    DISC = "disc"  # x^2 + y^2 <= a^2 in the plane z = 0
    SPHERE = "sphere"  # radius a
    CYLINDER = "cylinder"  # radius a around z, |z| <= b, open ends


@dataclass(frozen=True, slots=True)
class Surface:
    """One textured surface; flat ones are seen from their +z side only, curved ones from outside."""

    shape: Shape
    T_WO: Tensor  # [4, 4] float64, object to world
    a: float  # m, see Shape
    b: float  # m, see Shape
    texture: int  # index of its texture in the atlas

    def corners(self) -> Tensor:
        """The corners of a box around the surface, [8, 3] float64, object frame, m."""
        extent = {
            Shape.RECTANGLE: (self.a, self.b, 0.0),
            Shape.DISC: (self.a, self.a, 0.0),
            Shape.SPHERE: (self.a, self.a, self.a),
            Shape.CYLINDER: (self.a, self.a, self.b),
        }[self.shape]
        signs = torch.cartesian_prod(*(torch.tensor([-1.0, 1.0], dtype=torch.float64),) * 3)
        return signs * torch.tensor(extent, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Lamp:
    """A small light in all directions, weaker with distance."""

    position: tuple[float, float, float]  # world, m
    strength: float  # irradiance at 1 m, facing it


def pose(R: np.ndarray, t: np.ndarray) -> Tensor:
    """A rotation [3, 3] and a translation [3] as one matrix, [4, 4] float64."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    return torch.from_numpy(T)


def standing(x: float, y: float, z: float, yaw_degrees: float = 0.0) -> Tensor:
    """The pose of an upright object at (x, y, z) m, turned about the vertical, [4, 4] float64."""
    c, s = np.cos(np.radians(yaw_degrees)), np.sin(np.radians(yaw_degrees))
    return pose(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.array([x, y, z], float))


def inverse(T: Tensor) -> Tensor:
    """The inverse of a rigid [4, 4] matrix."""
    inverse = torch.eye(4, dtype=T.dtype)
    inverse[:3, :3] = T[:3, :3].T
    inverse[:3, 3] = -T[:3, :3].T @ T[:3, 3]
    return inverse
