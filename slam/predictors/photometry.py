"""Exposure and blur of one image against another: measured, and allowed for.

Flow assumes that a point keeps its brightness. A camera that changes its exposure multiplies the
light, which with the usual gamma curve multiplies the grey values too; glare adds to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from slam.frame import Correspondence
from slam.predictors.grid import Grid

CELLS = 48  # columns of the thumbnails that are compared: noise and misalignment average out
DARKEST, BRIGHTEST = 1, 250  # grey; a pixel there is clipped
CLIPPED = 0.02  # share of a cell's pixels that makes it useless
ROUNDS = 8  # of reweighting, at most
SETTLED = 3e-4  # change of the gain at which it stops
EXPLAINED = 0.9  # share of the difference that an exposure may leave, or it is not believed
SPARSE = 4  # of the matched grid pixels, one in so many tells the sharpness
FEWEST = 64  # pixels that a fit needs


@dataclass(frozen=True, slots=True)
class Exposure:
    """Grey values of a second image as a line over those of a first: second = gain first + bias."""

    gain: float = 1.0
    bias: float = 0.0  # grey values
    level: float = 128.0  # mean grey value of what was compared in the first image

    @property
    def change(self) -> float:
        """The larger of the relative changes of contrast and of brightness."""
        brightness = ((self.gain - 1) * self.level + self.bias) / max(self.level, 1.0)
        return max(abs(np.log(self.gain)), abs(brightness))


def equalise(
    first: Tensor, second: Tensor, flow: Tensor | None, tolerance: float
) -> tuple[Tensor, Tensor, float]:
    """The two images under one exposure: the one of less contrast is raised to the other's.

    Args:
        first, second: [h, w] uint8 grey.
        flow: [h, w, 2] px, roughly where the first's pixels land in the second; None = in place.
        tolerance: smaller relative changes are left as they are.
    Returns both and how much more contrast the second had; the very tensors given, and 1, where
    the exposure is the same within the tolerance.
    """
    found = fit_exposure(first.numpy(), second.numpy(), None if flow is None else flow.numpy())
    if found.change < tolerance:
        return first, second, 1.0
    if found.gain >= 1:
        return _mapped(first, found.gain, found.bias), second, found.gain
    return first, _mapped(second, 1 / found.gain, -found.bias / found.gain), found.gain


def _mapped(grey: Tensor, gain: float, bias: float) -> Tensor:
    table = np.clip(np.round(gain * np.arange(256) + bias), 0, 255).astype(np.uint8)
    return torch.from_numpy(cv2.LUT(grey.numpy(), table))


def fit_exposure(first: np.ndarray, second: np.ndarray, flow: np.ndarray | None) -> Exposure:
    """The line between the grey values of two images, robust to what moved and what is clipped.

    Neither image is free of noise, so the slope is the ratio of the spreads, not a regression's.
    """
    a, b = _compared(first, second, flow)
    if len(a) < FEWEST:
        return Exposure()
    weight = np.ones_like(a)
    gain, bias, mean_a = np.inf, 0.0, 128.0
    for _ in range(ROUNDS):
        weight /= weight.sum()
        mean_a, mean_b = float(weight @ a), float(weight @ b)
        spread_a = np.sqrt(weight @ (a - mean_a) ** 2)
        spread_b = np.sqrt(weight @ (b - mean_b) ** 2)
        if min(spread_a, spread_b) < 1e-3:
            return Exposure()
        last, gain = gain, float(spread_b / spread_a)
        bias = mean_b - gain * mean_a
        residual = np.abs(gain * a + bias - b)
        scale = 1.5 * np.median(residual) + 1e-3
        weight = 1 / (1 + (residual / scale) ** 2)
        if abs(gain - last) < SETTLED:
            break
    if np.median(np.abs(gain * a + bias - b)) > EXPLAINED * np.median(np.abs(a - b)):
        return Exposure()
    return Exposure(gain, bias, mean_a)


def _compared(
    first: np.ndarray, second: np.ndarray, flow: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Grey values [M] float32 of both at the same points, averaged over cells without clipping."""
    height, width = first.shape
    step = max(1, width // CELLS)
    size = (max(1, width // step), max(1, height // step))
    a, b = _thumbnail(first, size), _thumbnail(second, size)
    if flow is not None:
        scale = np.array([size[0] / width, size[1] / height], np.float32)
        moved = cv2.resize(flow, size, interpolation=cv2.INTER_NEAREST) * scale
        v, u = np.mgrid[: size[1], : size[0]].astype(np.float32)
        b = cv2.remap(
            *(b, u + moved[..., 0], v + moved[..., 1], cv2.INTER_LINEAR),
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(np.nan,),
        )
    usable = np.isfinite(a) & np.isfinite(b)
    return a[usable], b[usable]


def _thumbnail(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image averaged over cells, float32; NaN where pixels are clipped."""
    usable = cv2.inRange(grey, DARKEST + 1, BRIGHTEST - 1)  # 255 or 0
    mean = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    mean[cv2.resize(usable, size, interpolation=cv2.INTER_AREA) < 255 * (1 - CLIPPED)] = np.nan
    return mean


def sharpness_ratio(
    grid: Grid, first: Tensor, second: Tensor, gain: float, matched: Correspondence
) -> float:
    """Texture of the second image over that of the first, where they show the same; 1 = as sharp.

    Motion blur takes texture away, and so does a lens out of focus.

    Args:
        first, second: [P] texture at the grid pixels of each.
        gain: contrast of the second over that of the first, by their exposure.
        matched: the first's grid pixels in the second.
    """
    seen = torch.nonzero(matched.weight > 0)[::SPARSE, 0]
    if len(seen) == 0:
        return 1.0
    place = (matched.target[seen] - grid.offset) / grid.stride
    column, row = place.T[:, None].contiguous().numpy()
    texture = second.reshape(grid.rows, grid.columns).numpy()
    there = cv2.remap(texture, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
    here = np.maximum(first[seen].numpy(), 1e-6)
    return float(np.median(there / here)) / gain**2


def at_sharpness(matched: Correspondence, ratio: float) -> Correspondence:
    """A match's variance is noise over texture: that of the blurrier image counts, either way."""
    return Correspondence(matched.target, matched.weight * min(ratio, 1 / max(ratio, 1e-6)))
