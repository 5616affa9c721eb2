"""Which function writes which format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from slam.exports.colmap import write_colmap_binary, write_colmap_text
from slam.exports.depth import write_depth
from slam.exports.formats import FORMATS
from slam.exports.glb import write_glb
from slam.exports.mesh import write_mesh
from slam.exports.nerfstudio import write_nerfstudio
from slam.exports.paths import write_euroc, write_kitti, write_tum_path
from slam.exports.ply import write_cloud
from slam.exports.views import Choices
from slam.saved_map import SavedMap

WRITERS: Mapping[str, Callable[[SavedMap, Path, Choices], str]] = {
    "tum": write_tum_path,
    "kitti": write_kitti,
    "euroc": write_euroc,
    "colmap": write_colmap_text,
    "colmap-bin": write_colmap_binary,
    "nerfstudio": write_nerfstudio,
    "ply": write_cloud,
    "depth": write_depth,
    "glb": write_glb,
    "mesh": write_mesh,
}


def export_map(saved: SavedMap, format: str, out: Path, choices: Choices) -> str:
    """Writes a map in a format; returns what was written, in words.

    Raises ValueError for an unknown format, a map that has nothing for it, and an `out` of the
    wrong kind; OSError where it cannot be written.
    """
    if format not in FORMATS:
        raise ValueError(f"export format: wanted {', '.join(FORMATS)}, got '{format}'")
    kind = FORMATS[format].kind
    if kind == "file" and out.is_dir():
        raise ValueError(f"{out}: {format} wants a file, got a folder; name a file in it")
    if kind == "folder" and out.exists() and not out.is_dir():
        raise ValueError(f"{out}: {format} wants a folder, got a file; name another place")
    return WRITERS[format](saved, out, choices)
