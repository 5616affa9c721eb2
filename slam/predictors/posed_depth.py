"""Exact depth and pose of single frames, from a data set or rendered: the simulation's world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from slam.camera import Camera, pixel_grid
from slam.lie import se3_from_matrix, se3_interpolate, se3_matrix
from slam.rendering import Surface, render_depth
from slam.rendering.rooms import sample_room_builder
from slam.sources import Source
from slam.trajectory import Trajectory

POSE_MAX_GAP = 0.02  # stamps of the data set (s), between an image and the nearest true pose


@dataclass(frozen=True, slots=True)
class DepthView:
    """What is known of one frame."""

    depth: Tensor  # [H, W] float32, along the optical axis, m; 0 = none
    T_WC: Tensor  # [7] float64 SE(3), takes camera points to the world


class PosedDepth(Protocol):
    """Where true depth and poses come from, one frame at a time."""

    camera: Camera  # pinhole, of the depth maps

    def read(self, index: int) -> DepthView:
        """Depth and pose of frame `index`; ValueError where it has none."""
        ...


class RenderedDepth:
    """Exact depth of a rendered scene along a path."""

    def __init__(self, surfaces: tuple[Surface, ...], camera: Camera, T_WC: Tensor) -> None:
        """Args: T_WC: [N, 4, 4], the camera's pose at each of N frames."""
        self.surfaces = surfaces
        self.camera = camera
        self.T_WC = T_WC

    def read(self, index: int) -> DepthView:
        """Cast one ray through every pixel's centre."""
        if not 0 <= index < len(self.T_WC):
            raise ValueError(f"frame: wanted 0 to {len(self.T_WC) - 1}, got {index}")
        T_WC, camera = self.T_WC[index], self.camera
        depth = render_depth(self.surfaces, camera.intrinsics, camera.width, camera.height, T_WC)
        return DepthView(depth, se3_from_matrix(T_WC.double()))


class SourcePoses:
    """True poses of a recording's frames, interpolated in time."""

    def __init__(self, source: Source) -> None:
        """ValueError for a source without true poses."""
        if source.ground_truth is None:
            raise ValueError(f"{source.path}: wanted a recording with true poses")
        self.source = source
        self.truth = source.ground_truth
        self._place = {int(index): place for place, index in enumerate(source.indices)}

    @property
    def indices(self) -> list[int]:
        """Frames of the source's selection that have a pose."""
        return [index for index in self._place if self.at(index) is not None]

    def at(self, index: int) -> Tensor | None:
        """Pose [7] float64 at an image's time; None where none is near, or no such image."""
        if index not in self._place:
            return None
        return self.at_time(float(self.source.times[self._place[index]]))

    def at_time(self, time: float) -> Tensor | None:
        """Pose [7] float64 at a time as the source writes it; None where none is near."""
        return pose_at(self.truth, time, POSE_MAX_GAP)


class RoomDepth:
    """Exact depth of the sample's room, from where a recording's true poses are."""

    def __init__(self, source: Source, width: int, height: int) -> None:
        """Args: width, height: px of the depth maps wanted. ValueError for a source without poses.

        The recording is the sample, or a part of it.
        """
        self.camera = source.camera.resized(width, height)
        self.poses = SourcePoses(source)
        self._surfaces = tuple(sample_room_builder().surfaces)

    @property
    def indices(self) -> list[int]:
        """Frames of the source's selection that have a pose."""
        return self.poses.indices

    def read(self, index: int) -> DepthView:
        """Cast one ray through every pixel's centre."""
        T_WC, camera = self.poses.at(index), self.camera
        if T_WC is None:
            raise ValueError(f"{self.poses.source.path}: wanted a frame with a pose, got {index}")
        size = (camera.width, camera.height)
        depth = render_depth(self._surfaces, camera.intrinsics, *size, se3_matrix(T_WC))
        return DepthView(depth, T_WC)


class SourceDepth:
    """Depth maps and true poses of a data set, in the undistorted camera at working size.

    A pixel takes the nearest depth the sensor measured; poses are interpolated in time, to when the
    depth map was taken: what is measured in different frames is then one world.
    """

    def __init__(self, source: Source, width: int, height: int) -> None:
        """Args: width, height: px of the depth maps wanted. ValueError for a source without."""
        if source.ground_truth is None or not source.depth_files:
            raise ValueError(f"{source.path}: wanted a recording with true poses and depth maps")
        self.source = source
        self.poses = SourcePoses(source)
        self.camera = source.camera.resized(width, height)
        pixel = pixel_grid(height, width).reshape(-1, 2)
        self._raw = source.raw_pixels(pixel, width, height)

    @property
    def indices(self) -> list[int]:
        """Frames of the source's selection that have both depth and pose."""
        return [int(index) for index in self.source.indices if self._pose(int(index)) is not None]

    def read(self, index: int) -> DepthView:
        """The depth map nearest in time, resampled, and the pose at its time."""
        T_WC, depth = self._pose(index), self.source.depth_at(index, self._raw)
        if T_WC is None or depth is None:
            raise ValueError(
                f"{self.source.path}: wanted a frame with depth and pose, got frame {index}; "
                "take one of `indices`"
            )
        size = (self.camera.height, self.camera.width)
        return DepthView(torch.from_numpy(depth.reshape(size)), T_WC)

    def _pose(self, index: int) -> Tensor | None:
        time = self.source.depth_time(index)
        return None if time is None else self.poses.at_time(time)


def pose_at(trajectory: Trajectory, time: float, largest_gap: float) -> Tensor | None:
    """Pose [7] float64 at a time, between its neighbours; None where the nearest is too far."""
    times = trajectory.times
    after = int(np.clip(np.searchsorted(times, time), 1, max(len(times) - 1, 1)))
    before, after = after - 1, min(after, len(times) - 1)
    if len(times) == 0 or min(abs(times[before] - time), abs(times[after] - time)) > largest_gap:
        return None
    share = np.clip((time - times[before]) / max(times[after] - times[before], 1e-12), 0.0, 1.0)
    first, second = torch.from_numpy(trajectory.poses[[before, after]])
    return se3_interpolate(first, second, float(share))
