"""Pictures of numbers: inverse depth, confidence and flow as RGB images."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from slam.measurement import unpack
from slam.predictors import Grid

FLOW_RANGE = 95  # percentile of the flow's length that is drawn in full colour
BEST = 250.0  # confidence that is drawn brightest: no relative sigma falls below 0.004
UNKNOWN = np.array([40, 40, 46], np.uint8)  # RGB where nothing was measured


def depth_picture(inverse_depth: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """[rows, columns, 3] uint8, near = warm, far = cold; what was never measured stays dark."""
    known = (confidence > 0) & (inverse_depth > 0)
    if not known.any():
        return np.broadcast_to(UNKNOWN, (*known.shape, 3)).copy()
    low, high = np.percentile(inverse_depth[known], [2, 98])
    level = (inverse_depth - low) / max(high - low, 1e-12)
    return _colored(level, known, cv2.COLORMAP_TURBO)


def confidence_picture(confidence: np.ndarray) -> np.ndarray:
    """[rows, columns, 3] uint8, brighter = more certain, on a logarithmic scale."""
    level = np.log1p(np.maximum(confidence, 0)) / np.log1p(BEST)
    return _colored(level, confidence > 0, cv2.COLORMAP_VIRIDIS)


def flow_picture(grid: Grid, packed: torch.Tensor) -> np.ndarray:
    """[rows, columns, 3] uint8 of a frame's measurement [Q, 3]: hue = direction, light = length."""
    places, measured = unpack(grid, packed)
    flow = (measured.target - grid.pixel[places]).numpy()
    columns = len(range(0, grid.columns, 2))
    length = np.linalg.norm(flow, axis=1)
    seen = measured.weight.numpy() > 0
    longest = max(float(np.percentile(length[seen], FLOW_RANGE)), 1.0) if seen.any() else 1.0
    hue = np.degrees(np.arctan2(flow[:, 1], flow[:, 0])) % 360 / 2  # OpenCV's: 0..180
    hsv = np.stack([hue, 255 * np.clip(length / longest, 0, 1), np.full(len(hue), 255)], axis=1)
    picture = cv2.cvtColor(hsv.astype(np.uint8).reshape(-1, columns, 3), cv2.COLOR_HSV2RGB)
    picture[~seen.reshape(-1, columns)] = UNKNOWN
    return picture


def _colored(level: np.ndarray, known: np.ndarray, colormap: int) -> np.ndarray:
    """Levels 0..1 in the colours of one of OpenCV's maps."""
    bytes_ = (255 * np.clip(level, 0, 1)).astype(np.uint8)
    picture = cv2.cvtColor(cv2.applyColorMap(bytes_, colormap), cv2.COLOR_BGR2RGB)
    picture[~known] = UNKNOWN
    return picture
