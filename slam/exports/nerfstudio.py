"""Keyframes as nerfstudio's data: transforms.json, images, and points to start splats from.

Its cameras look along -z with y up (OpenGL), and its pixels' corners are at integers, not their
centres: half a pixel is added to cx and cy. The world stays as it is.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from slam.export import write_ply
from slam.exports.views import Choices, cloud_of, views, write_image
from slam.lie import se3_matrix
from slam.saved_map import SavedMap
from slam.trajectory import write_atomically

TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # camera axes: x right, y up, z backward
CENTRE = 0.5  # px, of a pixel whose corner is at an integer


def write_nerfstudio(saved: SavedMap, out: Path, choices: Choices) -> str:
    """Writes transforms.json, images/ and points.ply into a folder."""
    cloud = cloud_of(saved, choices)
    frames = []
    for view in views(saved, choices):
        pose = se3_matrix(view.keyframe.T_WC).numpy() @ TO_OPENGL
        file = f"images/{write_image(out / 'images', view)}"
        frames.append({"file_path": file, "transform_matrix": pose.tolist()})
    write_ply(out / "points.ply", cloud.points, cloud.colors)
    fx, fy, cx, cy = saved.intrinsics
    about = {
        "camera_model": "OPENCV",  # without distortion: the images have none
        "fl_x": fx,
        "fl_y": fy,
        "cx": cx + CENTRE,
        "cy": cy + CENTRE,
        "w": saved.grid.width,
        "h": saved.grid.height,
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "ply_file_path": "points.ply",
        "frames": frames,
    }
    write_atomically(out / "transforms.json", json.dumps(about, indent=1).encode())
    return f"{len(frames)} images, {len(cloud.points)} points"
