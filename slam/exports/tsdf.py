"""Keyframe depths fused to a surface: a truncated signed distance on sparse blocks of voxels.

Curless & Levoy, "A volumetric method for building complex models from range images", SIGGRAPH 1996;
blocks only near surfaces as in Niessner et al., "Real-time 3D reconstruction at scale using voxel
hashing", SIGGRAPH Asia 2013.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from slam.exports.marching_cubes import (
    CORNERS,
    HALF_RANGE,
    Sampled,
    Surface,
    joined,
    lattice_key,
    lattice_place,
    surface_of,
)

SIDE = 8  # voxels of a block
VOXELS = SIDE**3
TRUNCATION = 4.0  # voxels, from the surface
SMOOTH = 1.05  # ratio of neighbouring depths that are still one surface
HEAVIEST = 100.0  # weight of one view's depth: it is off by a tenth of a voxel
MOST_BLOCKS = 100_000  # 1.2 GB
CHUNK = 1024  # blocks at once
FARTHEST = HALF_RANGE // SIDE - 2  # blocks from the middle on an axis
BAND = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of the truncation: places along a ray that get blocks
TINY = 1e-20


@dataclass(frozen=True, slots=True)
class DepthImage:
    """One view's depths, as the volume takes them."""

    R_WC: np.ndarray  # [3, 3] float64
    t_WC: np.ndarray  # [3] float64, camera centre
    inverse_depth: np.ndarray  # [rows, columns] float32, on every stride-th pixel
    information: np.ndarray  # [rows, columns] float32, 1 / variance times trust; 0 = not known
    stride: int  # px
    offset: int  # px, of the first row and column
    rgb: np.ndarray  # [h, w, 3] uint8
    intrinsics: tuple[float, float, float, float]  # fx, fy, cx, cy px of rgb

    def trusted(self) -> DepthImage:
        """With the information times the squared cosine of the angle at which surfaces are seen.

        Grazing depths say little of where a surface is, and those at a rim may be either side's.
        """
        fx, fy, cx, cy = self.intrinsics
        rows, columns = self.inverse_depth.shape
        x = (np.arange(columns) * self.stride + self.offset - cx) / fx
        y = ((np.arange(rows) * self.stride + self.offset - cy) / fy)[:, None]
        rho = np.where(self.information > 0, self.inverse_depth, 0).astype(np.float64)
        down, right = np.gradient(rho, self.stride / fy, self.stride / fx)
        normal2 = right**2 + down**2 + (rho - x * right - y * down) ** 2  # over its distance
        cosine2 = rho**2 / np.maximum(normal2 * (x * x + y * y + 1), TINY)
        return replace(self, information=(self.information * cosine2).astype(np.float32))

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Known depths [n], and their rays [n, 3] in the world, of depth 1."""
        row, column = np.nonzero(self.information > 0)
        fx, fy, cx, cy = self.intrinsics
        pixel = np.stack([column, row], -1) * self.stride + self.offset
        ray = np.column_stack([(pixel - (cx, cy)) / (fx, fy), np.ones(len(pixel))])
        return 1 / self.inverse_depth[row, column].astype(np.float64), ray @ self.R_WC.T


class Volume:
    """Allocate all views, then integrate all views, then take the surface."""

    def __init__(self, voxel: float) -> None:
        """Args: voxel: edge, unit of the map. Raises ValueError where it is not above 0."""
        if not voxel > 0:
            raise ValueError(f"voxel: wanted an edge above 0, got {voxel}")
        self.voxel = voxel
        self.truncation = TRUNCATION * voxel
        self._keys = np.empty(0, np.int64)  # [N] of the blocks, increasing
        self._sums = np.zeros((0, VOXELS, 6), np.float32)  # distance, weight; r, g, b, weight

    def allocate(self, view: DepthImage) -> None:
        """Makes blocks round what a view sees. Raises ValueError where they are too many."""
        depth, ray = view.points()
        reach = self.truncation / np.linalg.norm(ray, axis=1)
        found = [self._keys]
        for part in BAND:
            X = view.t_WC + ray * (depth + part * reach)[:, None]
            place = np.floor(X / (SIDE * self.voxel))
            near = (np.abs(place) < FARTHEST).all(1)
            found.append(np.unique(lattice_key(place[near].astype(np.int64))))
        self._keys = np.unique(np.concatenate(found))
        if len(self._keys) > MOST_BLOCKS:
            raise ValueError(
                f"voxel: wanted a surface of at most {MOST_BLOCKS} blocks of {SIDE} voxels a side, "
                f"got more with an edge of {self.voxel:g}; take a larger one (--voxel)"
            )

    def integrate(self, view: DepthImage) -> None:
        """Averages a view's depths into the blocks that it sees; call once all are allocated.

        What lies behind a surface counts the less the deeper it is (Bylow et al., "Real-time camera
        tracking and 3D reconstruction using signed distance functions", RSS 2013): thin things
        have another side.
        """
        view = view.trusted()
        if len(self._sums) < len(self._keys):
            self._sums = np.zeros((len(self._keys), VOXELS, 6), np.float32)
        local, visible = _local_voxels(), self._visible(view)
        for first in range(0, len(visible), CHUNK):
            blocks = visible[first : first + CHUNK]
            place = lattice_place(self._keys[blocks])[:, None] * SIDE + local
            added = self._observed(view, place.reshape(-1, 3) * self.voxel)
            self._sums[blocks] += added.reshape(len(blocks), VOXELS, 6)

    def _visible(self, view: DepthImage) -> np.ndarray:
        """Blocks [B] that may lie in the view's image."""
        half = SIDE / 2
        X = (lattice_place(self._keys) * SIDE + half) * self.voxel
        radius = np.sqrt(3) * half * self.voxel
        X_C = (X - view.t_WC) @ view.R_WC
        fx, fy, cx, cy = view.intrinsics
        height, width = view.rgb.shape[:2]
        z = X_C[:, 2]
        seen = z > -radius
        for axis, focal, centre, size in ((0, fx, cx, width), (1, fy, cy, height)):
            for side, edge in ((1, size - centre), (-1, centre)):
                slope = edge / focal  # inside: side * x <= slope z
                off = side * X_C[:, axis] - slope * z
                seen &= off <= radius * np.sqrt(1 + slope**2)
        return np.flatnonzero(seen)

    def _observed(self, view: DepthImage, X: np.ndarray) -> np.ndarray:
        """What a view adds to voxels at X [n, 3]: [n, 6] as in `_sums`."""
        X_C = ((X - view.t_WC) @ view.R_WC).astype(np.float32)
        z = X_C[:, 2]
        fx, fy, cx, cy = view.intrinsics
        near = np.maximum(z, 1e-9)
        u, v = fx * X_C[:, 0] / near + cx, fy * X_C[:, 1] / near + cy
        rows, columns = view.inverse_depth.shape
        x, y = (u - view.offset) / view.stride, (v - view.offset) / view.stride
        inside = (z > 0) & (x > -0.5) & (y > -0.5) & (x < columns - 0.5) & (y < rows - 0.5)
        added = np.zeros((len(X), 6), np.float32)
        at = np.flatnonzero(inside)
        rho, information = _depth_at(view, x[at], y[at])
        known = information > 0
        at, rho, information = at[known], rho[known], information[known]
        distance = 1 / rho - z[at]
        front = distance > -self.truncation
        at, distance = at[front], distance[front]
        weight = np.minimum(information * rho**4 * self.voxel**2, HEAVIEST)[front]
        weight *= np.minimum((distance + self.truncation) / (self.truncation - self.voxel), 1)
        added[at, 0] = weight * np.minimum(distance, self.truncation)
        added[at, 1] = weight
        close = np.abs(distance) < self.truncation
        at, weight = at[close], weight[close]
        added[at, 2:5] = weight[:, None] * _color_at(view.rgb, u[at], v[at])
        added[at, 5] = weight
        return added

    def surface(self) -> Surface:
        """The surface, in voxels, between voxels that were all seen."""
        chunks = range(0, max(len(self._keys), 1), CHUNK)
        return joined([surface_of(self._sampled(self._keys[k : k + CHUNK])) for k in chunks])

    def _sampled(self, keys: np.ndarray) -> Sampled:
        """Blocks with the first voxels of those after them."""
        place = lattice_place(keys)
        sums = np.zeros((len(keys), SIDE + 1, SIDE + 1, SIDE + 1, 6), np.float32)
        for step in CORNERS:
            number, exists = self._find(lattice_key(place + step))
            voxels = self._sums[number[exists]].reshape(-1, SIDE, SIDE, SIDE, 6)
            to = (slice(SIDE, None) if s else slice(0, SIDE) for s in step)
            of = (slice(0, 1) if s else slice(0, SIDE) for s in step)
            sums[(exists, *to)] = voxels[(slice(None), *of)]
        weight, color_weight = sums[..., 1], sums[..., 5]
        return Sampled(
            place * SIDE,
            sums[..., 0] / np.maximum(weight, TINY),
            weight > 0,
            sums[..., 2:5] / np.maximum(color_weight, TINY)[..., None],
            color_weight > 0,
        )

    def _find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers [B] of the blocks with these keys, and which there are."""
        if not len(self._keys):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
        number = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return number, self._keys[number] == keys


def _local_voxels() -> np.ndarray:
    """Places [VOXELS, 3] of a block's voxels, x first."""
    return np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), -1).reshape(-1, 3)


def _depth_at(view: DepthImage, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depth and information [n] at fractional columns and rows; information 0: not known.

    Between four known depths of one surface the inverse depth is interpolated, which is exact on
    planes; elsewhere it is the nearest one's.
    """
    rho, information = view.inverse_depth, view.information
    rows, columns = rho.shape
    nearest = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
    column = np.floor(x).astype(np.int64).clip(0, columns - 2)
    row = np.floor(y).astype(np.int64).clip(0, rows - 2)
    corners = np.stack([rho[row + a, column + b] for a in (0, 1) for b in (0, 1)])
    known = np.stack([information[row + a, column + b] for a in (0, 1) for b in (0, 1)]) > 0
    smooth = known.all(0) & (corners.max(0) < SMOOTH * corners.min(0))
    right, down = x - column, y - row
    top = corners[0] + right * (corners[1] - corners[0])
    bottom = corners[2] + right * (corners[3] - corners[2])
    between = top + down * (bottom - top)
    return np.where(smooth, between, rho[nearest]), information[nearest]


def _color_at(rgb: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Colours [n, 3] of the pixels nearest to (u, v)."""
    height, width = rgb.shape[:2]
    row = np.rint(v).astype(np.int64).clip(0, height - 1)
    column = np.rint(u).astype(np.int64).clip(0, width - 1)
    return rgb[row, column]
