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
    DISC = "disc"  # x^2 + y^2 <= a^2 in the plane z = 0; b = a
    SPHERE = "sphere"  # radius a; b = a
    CYLINDER = "cylinder"  # radius a around z, |z| <= b, open ends


@dataclass(frozen=True, slots=True)
class Surface:
    """One textured surface; flat ones are seen from their +z side, curved ones from outside."""

    shape: Shape
    T_WO: Tensor  # [4, 4] float64, object to world
    a: float  # m, see Shape
    b: float  # m, see Shape
    texture: int  # index of its texture in the atlas

    @property
    def flat(self) -> bool:
        """Whether the surface is plane."""
        return self.shape in (Shape.RECTANGLE, Shape.DISC)

    @property
    def extent(self) -> tuple[float, float, float]:
        """Half the sides of a box around the surface, object frame, m."""
        if self.flat:
            return self.a, self.b, 0.0
        return self.a, self.a, self.b


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
    """The inverse of rigid matrices, [..., 4, 4]."""
    result = torch.zeros_like(T)
    result[..., :3, :3] = T[..., :3, :3].mT
    result[..., :3, 3:] = -T[..., :3, :3].mT @ T[..., :3, 3:]
    result[..., 3, 3] = 1.0
    return result
