"""The formats that a saved map can be exported in, by name; `registry.py` has their writers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Format:
    """What a user should know of one."""

    kind: Literal["file", "folder"]  # that it is written to
    help: str  # what is in it


FORMATS = {
    "tum": Format("file", "every frame's pose, 't tx ty tz qx qy qz qw' a row"),
    "kitti": Format("file", "every frame's pose, a 3x4 matrix a row; times in a file beside it"),
    "euroc": Format("file", "every frame's pose, csv with times in ns"),
    "colmap": Format("folder", "keyframes, and points with tracks, as COLMAP's text files"),
    "colmap-bin": Format("folder", "the same as COLMAP's binary files"),
    "nerfstudio": Format("folder", "transforms.json, keyframes, points to start splats from"),
    "ply": Format("file", "the coloured points with confidences, binary PLY"),
    "depth": Format("folder", "keyframes as RGB-D: colour, 16-bit depth, its scale, poses"),
    "glb": Format("file", "the coloured points as binary glTF 2.0"),
    "mesh": Format("file", "a coloured triangle mesh of the fused depths, binary PLY"),
}
