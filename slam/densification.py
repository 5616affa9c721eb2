"""Dense output: depth of far more pixels than the grid's, on robust local planes through it.

A plane's inverse depth is linear in the pixel: a straight line fitted to the neighbours is right on
slanted surfaces too. Neighbours count by their information, by how much they look like the pixel,
and, once a first fit is there, by whether they lie on it: what lies behind an edge does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from slam.config import Config, MapSettings
from slam.frame import InverseDepth, Keyframe, Snapshot
from slam.paging import Pages
from slam.predictors import Grid

CHUNK = 1024  # pixels solved at once: what that takes stays in the cache
CORRELATED = 4  # depths that share one error: 2 x 2 in a patch of flow
ITERATIONS = 2  # of the fit, each with the neighbours that lie on the one before
AGREES = 2.5  # sigma, beyond which a neighbour does not lie on the plane
AGREES_RELATIVE = 0.02  # of the depth, added to a neighbour's sigma: surfaces are not quite planes
STEEPEST = 0.05  # sigma of the change of inverse depth from one grid pixel to the next, relative
DISAGREEMENT = 3  # power of the share of neighbours on the plane in its information: edges
GUIDE_BLUR = 1.0  # px, sigma: takes the noise out of the colours that are compared
SMALLEST = 1e-15  # keeps divisions by what may be 0 finite


def densify(
    snapshot: Snapshot, coarse: Grid, config: Config, pages: Pages | None = None
) -> tuple[Grid, list[InverseDepth]]:
    """Inverse depth of every keyframe on a finer grid.

    Args:
        coarse: the grid that the snapshot's depths are on.
        pages: keep what comes out; None = memory does.
    Returns the finer grid and one [Q] inverse depth for each keyframe.
    """
    fine, pages = Grid(coarse.width, coarse.height, config.map.stride), pages or Pages()

    def solve(keyframe: Keyframe) -> InverseDepth:
        settings, floor = config.map, config.mapping.relative_floor
        return pages.keep(upsample(coarse, fine, keyframe, settings, floor))

    with ThreadPoolExecutor(config.run.threads, thread_name_prefix="dense") as pool:
        return fine, list(pool.map(solve, snapshot.keyframes))


def upsample(
    coarse: Grid, fine: Grid, keyframe: Keyframe, settings: MapSettings, relative_floor: float
) -> InverseDepth:
    """Inverse depth [Q] at the fine grid's pixels from the keyframe's [P] on the coarse grid.

    A pixel without a measured neighbour within `settings.reach` keeps information 0, and one at the
    rim of what was measured gets little: nothing is invented. The information falls where the
    neighbours scatter round the plane, and with the share of them that lie on it: pixels at an
    edge, which may belong to either side, are the first to go.

    In numpy: torch would split these small arrays among threads that wait for each other.

    Args: relative_floor: no standard deviation falls below this part of the value.
    """
    parts = []
    for near in _neighbourhoods(coarse, fine, keyframe, settings):
        plane = _start(near)
        for _ in range(ITERATIONS):
            plane = _fit(near, plane)
        parts.append(_measured(near, plane, relative_floor))
    value, information = (np.concatenate(column) for column in zip(*parts, strict=True))
    return InverseDepth(torch.from_numpy(value), torch.from_numpy(information))


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The M coarse grid pixels round each of n fine ones."""

    X: np.ndarray  # [M, n] float32, grid steps right of the fine pixel
    Y: np.ndarray  # [M, n] float32, grid steps below it
    value: np.ndarray  # [M, n] float32, inverse depth
    information: np.ndarray  # [M, n] float32, 0 = never measured
    weight: np.ndarray  # [M, n] float32, the information, less by distance and unlike colour


@dataclass(frozen=True, slots=True)
class Plane:
    """Inverse depth value + right X + down Y round each of n pixels."""

    value: np.ndarray  # [n] float32
    right: np.ndarray  # [n] float32, per grid step
    down: np.ndarray  # [n] float32, per grid step
    variance: np.ndarray  # [n] float32, of value, as if every neighbour were independent

    def residual(self, near: Neighbourhood) -> np.ndarray:
        """[M, n] how much more inverse depth the neighbours have than the plane."""
        return near.value - self.value - self.right * near.X - self.down * near.Y


def _neighbourhoods(
    coarse: Grid, fine: Grid, keyframe: Keyframe, settings: MapSettings
) -> Iterator[Neighbourhood]:
    """Of all fine pixels in order, CHUNK at a time."""
    reach, rgb = settings.reach, keyframe.frame.features.rgb
    guide = torch.from_numpy(cv2.GaussianBlur(rgb.numpy(), (0, 0), GUIDE_BLUR)).float()
    stacked = [keyframe.depth.value, keyframe.depth.information, *coarse.sample(guide).T]
    planes = torch.stack(stacked).numpy().reshape(5, coarse.rows, coarse.columns)
    padded = np.pad(planes, ((0, 0), (reach, reach), (reach, reach)))  # information 0 outside
    width, flat = padded.shape[2], padded.reshape(5, -1)
    steps = np.arange(-reach, reach + 1)
    down, right = (s.reshape(-1, 1) for s in np.meshgrid(steps, steps, indexing="ij"))
    most = (coarse.columns - 1, coarse.rows - 1)
    pixels, colors = fine.pixel.numpy(), fine.sample(guide).numpy()
    for first in range(0, len(pixels), CHUNK):
        place = (pixels[first : first + CHUNK] - coarse.offset) / np.float32(coarse.stride)
        cell = np.clip(np.rint(place).astype(int), 0, most)
        x, y = (cell - place).astype(np.float32).T
        column, row = cell.T + reach
        value, information, *color = flat[:, (row + down) * width + column + right]
        X, Y = x + right.astype(np.float32), y + down.astype(np.float32)
        wanted = colors[first : first + CHUNK].T
        unlike = sum((c - w) ** 2 for c, w in zip(color, wanted, strict=True))
        far = (X * X + Y * Y) * (1.5 / reach) ** 2 + unlike / (3 * settings.color**2)
        yield Neighbourhood(X, Y, value, information, information * np.exp(-0.5 * far))


def _start(near: Neighbourhood) -> Plane:
    """Level planes at the weighted median of the 3 x 3 nearest, or the mean where none is known."""
    mean = (near.weight * near.value).sum(0) / np.maximum(near.weight.sum(0), SMALLEST)
    side = round(len(near.weight) ** 0.5)
    middle = slice(side // 2 - 1, side // 2 + 2)
    value, weight = (
        t.reshape(side, side, -1)[middle, middle].reshape(9, -1) for t in (near.value, near.weight)
    )
    order = value.argsort(0)
    below = np.take_along_axis(weight, order, 0).cumsum(0)
    place = (below < 0.5 * below[-1]).sum(0)
    median = np.take_along_axis(value, np.take_along_axis(order, place[None], 0), 0)[0]
    level = np.zeros_like(mean)
    return Plane(np.where(below[-1] > 0, median, mean), level, level, level)


def _fit(near: Neighbourhood, before: Plane) -> Plane:
    """Weighted least squares over the neighbours that lie on the plane before (Tukey's weights).

    The slopes have a prior of mean 0, which decides where the neighbours lie on a line.
    """
    weight = _agreeing(near, before)
    wX, wY, rise = weight * near.X, weight * near.Y, near.value - before.value
    S, S_x, S_y, S_d = (t.sum(0) for t in (weight, wX, wY, weight * rise))
    S = np.maximum(S, SMALLEST)
    prior = 1 / np.maximum((STEEPEST * before.value) ** 2, SMALLEST)
    A_xx = (wX * near.X).sum(0) + prior - S_x * S_x / S
    A_yy = (wY * near.Y).sum(0) + prior - S_y * S_y / S
    A_xy = (wX * near.Y).sum(0) - S_x * S_y / S
    b_x, b_y = (wX * rise).sum(0) - S_x * S_d / S, (wY * rise).sum(0) - S_y * S_d / S
    scale = 1 / (A_xx * A_yy - A_xy * A_xy)
    right, down = (A_yy * b_x - A_xy * b_y) * scale, (A_xx * b_y - A_xy * b_x) * scale
    value = before.value + (S_d - right * S_x - down * S_y) / S
    x, y = S_x / S, S_y / S  # the neighbours' mean: far from it the slopes' errors tell
    lever = (A_yy * x * x - 2 * A_xy * x * y + A_xx * y * y) * scale
    return Plane(value, right, down, 1 / S + lever)


def _agreeing(near: Neighbourhood, plane: Plane) -> np.ndarray:
    """[M, n] weights of the neighbours, 0 for those that do not lie on the plane."""
    tolerance = 1 / np.maximum(near.information, SMALLEST) + (AGREES_RELATIVE * plane.value) ** 2
    off = plane.residual(near) ** 2 / (AGREES**2 * tolerance)
    return near.weight * np.maximum(1 - off, 0) ** 2


def _measured(
    near: Neighbourhood, plane: Plane, relative_floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Value and information [n] of the planes at the pixels; 1 and 0 where there is none."""
    weight = _agreeing(near, plane)
    agreeing, total = weight.sum(0), near.weight.sum(0)
    known = (agreeing > 0) & (plane.value > 0)
    scatter = (weight * plane.residual(near) ** 2).sum(0) / np.maximum(agreeing, SMALLEST)
    variance = CORRELATED * plane.variance + scatter + (relative_floor * plane.value) ** 2
    share = agreeing / np.maximum(total, SMALLEST)
    information = np.where(known, share**DISAGREEMENT / variance, 0)
    return np.where(known, plane.value, 1).astype(np.float32), information.astype(np.float32)
