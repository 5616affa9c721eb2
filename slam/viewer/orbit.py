"""The viewpoint: an eye that looks at a target, turned round it by the mouse."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

FIELD_OF_VIEW = math.radians(60)  # across the picture's width
NEAR, FAR = 0.005, 2000.0  # depths drawn, of the distance to the target
STEEPEST = math.radians(89.5)  # up stays up on the screen
STEP_BACK, STEP_UP = 0.8, 0.45  # of the depth: where somebody stands who follows a camera
CLOSEST = 1e-6  # distance to the target, unit of the map


@dataclass(frozen=True, slots=True)
class Orbit:
    """An eye at a distance from its target, as seen on a globe round it."""

    up: np.ndarray  # [3] unit, world
    target: np.ndarray  # [3] world
    distance: float  # of the eye from the target, unit of the map
    azimuth: float  # rad, round `up`
    elevation: float  # rad, above the target

    @property
    def globe(self) -> np.ndarray:
        """[3, 3] rows east, north, up."""
        axis = np.eye(3)[np.argmin(np.abs(self.up))]
        east = np.cross(axis, self.up)
        east = east / np.linalg.norm(east)
        return np.stack([east, np.cross(self.up, east), self.up])

    @property
    def eye(self) -> np.ndarray:
        """[3] world."""
        level = math.cos(self.elevation)
        out = np.array([level * math.cos(self.azimuth), level * math.sin(self.azimuth), 0.0])
        out[2] = math.sin(self.elevation)
        return self.target + self.distance * (out @ self.globe)

    @property
    def axes(self) -> np.ndarray:
        """[3, 3] rows: right, up and backward on the screen, in the world (OpenGL's eye)."""
        back = (self.eye - self.target) / self.distance
        right = np.cross(self.up, back)
        right = right / np.linalg.norm(right)
        return np.stack([right, np.cross(back, right), back])

    def matrix(self, width: float, height: float) -> np.ndarray:
        """[4, 4] from the world to OpenGL's clip coordinates, for a picture of that shape."""
        axes = self.axes
        view = np.eye(4)
        view[:3, :3], view[:3, 3] = axes, -axes @ self.eye
        f = 1 / math.tan(FIELD_OF_VIEW / 2)
        near, far = NEAR * self.distance, FAR * self.distance
        projection = np.zeros((4, 4))
        projection[0, 0], projection[1, 1] = f, f * width / height
        projection[2, 2:] = -(far + near) / (far - near), -2 * far * near / (far - near)
        projection[3, 2] = -1
        return projection @ view

    def looking(self, eye: np.ndarray, target: np.ndarray) -> Orbit:
        """The same up, another eye and target [3]."""
        out = np.asarray(eye, float) - target
        distance = max(float(np.linalg.norm(out)), CLOSEST)
        east, north, up = self.globe @ out / distance
        elevation = float(np.clip(math.asin(np.clip(up, -1, 1)), -STEEPEST, STEEPEST))
        azimuth = math.atan2(north, east)
        return Orbit(self.up, np.asarray(target, float), distance, azimuth, elevation)

    def turned(self, azimuth: float, elevation: float) -> Orbit:
        """Moved round the target by two angles, rad."""
        raised = float(np.clip(self.elevation + elevation, -STEEPEST, STEEPEST))
        return replace(self, azimuth=self.azimuth + azimuth, elevation=raised)

    def panned(self, right: float, up: float, width: float) -> Orbit:
        """Moved along with what is at the target's distance, px of a picture `width` px wide."""
        size = 2 * self.distance * math.tan(FIELD_OF_VIEW / 2) / width
        return replace(self, target=self.target - size * (right * self.axes[0] + up * self.axes[1]))

    def zoomed(self, factor: float) -> Orbit:
        """The distance to the target times a factor."""
        return replace(self, distance=max(self.distance * factor, CLOSEST))

    def behind(self, T_WC: np.ndarray, depth: float) -> Orbit:
        """Behind and above a camera [4, 4] that sees things at a depth, looking where it looks."""
        forward, position = T_WC[:3, 2], T_WC[:3, 3]
        eye = position - depth * (STEP_BACK * forward - STEP_UP * self.up)
        return self.looking(eye, position + depth * forward)

    def towards(self, other: Orbit, share: float) -> Orbit:
        """A part of the way to another one, with its up."""
        eye = self.eye + share * (other.eye - self.eye)
        return other.looking(eye, self.target + share * (other.target - self.target))


def project(matrix: np.ndarray, points: np.ndarray, width: float, height: float) -> np.ndarray:
    """[N, 3] of world points [N, 3]: px from the top left corner, and depth; nan behind the eye."""
    clip = points @ matrix[:, :3].T + matrix[:, 3]
    depth = np.where(clip[:, 3] > 0, clip[:, 3], np.nan)
    x, y = clip[:, 0] / depth, clip[:, 1] / depth
    return np.stack([(x + 1) / 2 * width, (1 - y) / 2 * height, depth], axis=1)
