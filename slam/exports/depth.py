"""Keyframes as an RGB-D recording: 16-bit depth images, their scale, and poses."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from slam.exports.views import Choices, View, finest_grid, views, write_image
from slam.predictors import Grid
from slam.saved_map import SavedMap
from slam.trajectory import write_atomically

LARGEST = 65535  # of 16 bits
FARTHEST = 99.9  # percentile of the depths that 16 bits are made to hold


def write_depth(saved: SavedMap, out: Path, choices: Choices) -> str:
    """Writes depth/, rgb/ and depth.json into a folder.

    A PNG holds depth along the optical axis times `per_unit` of depth.json, 0 = not known, in the
    geometry of the keyframe's image: each pixel has the depth of the nearest one that the map
    knows, at most half a grid step away. Depths beyond what 16 bits hold are left out.
    """
    per_unit = _per_unit(saved, choices)
    frames = []
    for view in views(saved, choices):
        image = depth_image(finest_grid(saved), view, per_unit)
        write_atomically(
            out / "depth" / f"{view.name}.png", cv2.imencode(".png", image)[1].tobytes()
        )
        frames.append(
            {
                "index": view.keyframe.index,
                "time": view.keyframe.time,
                "rgb": f"rgb/{write_image(out / 'rgb', view)}",
                "depth": f"depth/{view.name}.png",
                "T_WC": view.keyframe.T_WC.tolist(),
            }
        )
    about = {
        "per_unit": per_unit,
        "size": [saved.grid.width, saved.grid.height],
        "intrinsics": saved.intrinsics,
        "frames": frames,
    }
    write_atomically(out / "depth.json", json.dumps(about, indent=1).encode())
    return f"{len(frames)} depth images, {per_unit:g} = one unit of the map"


def depth_image(grid: Grid, view: View, per_unit: float) -> np.ndarray:
    """[h, w] uint16 at working size; 0 = not known."""
    depth = per_unit / view.depth.value.double().numpy().clip(min=1e-12)
    held = view.known.numpy() & (depth >= 0.5) & (depth < LARGEST + 0.5)
    values = np.where(held, np.rint(np.where(held, depth, 0)), 0).astype(np.uint16)
    row, column = (
        ((np.arange(size) - grid.offset + grid.stride // 2) // grid.stride).clip(0, count - 1)
        for size, count in ((grid.height, grid.rows), (grid.width, grid.columns))
    )
    return values.reshape(grid.rows, grid.columns)[np.ix_(row, column)]


def _per_unit(saved: SavedMap, choices: Choices) -> float:
    """The finest scale that holds nearly all depths. Raises ValueError where none is known."""
    farthest = 0.0
    for view in views(saved, choices):
        if view.known.any():
            depth = 1 / view.depth.value[view.known].double().numpy()
            farthest = max(farthest, float(np.percentile(depth, FARTHEST)))
    if not farthest:
        raise ValueError(
            f"map of {saved.origin.name}: wanted depths that are sure enough, got none; take a "
            "smaller --confidence"
        )
    return float(f"{LARGEST / farthest:.4g}")
