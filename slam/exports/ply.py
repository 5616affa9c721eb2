"""The coloured points as binary PLY."""

from __future__ import annotations

from pathlib import Path

from slam.export import write_ply
from slam.exports.views import Choices, cloud_of
from slam.saved_map import SavedMap


def write_cloud(saved: SavedMap, out: Path, choices: Choices) -> str:
    """Writes points as map.ply has them, each with its confidence."""
    cloud = cloud_of(saved, choices)
    write_ply(out, cloud.points, cloud.colors, cloud.confidence)
    return f"{len(cloud.points)} points"
