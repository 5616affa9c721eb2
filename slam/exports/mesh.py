"""A coloured triangle mesh of the keyframes' depths, as binary PLY."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from slam.export import choose_voxel_size
from slam.exports.marching_cubes import Surface
from slam.exports.tsdf import DepthImage, Volume
from slam.exports.views import Choices, View, cloud_of, finest_grid, views
from slam.lie import se3_matrix
from slam.saved_map import SavedMap
from slam.trajectory import write_atomically

COARSER = 2.0  # a mesh's voxel over a cloud's: surfaces between points need no more
SHRED = 50  # triangles; pieces of fewer are noise
VERTEX = np.dtype(
    [(axis, "<f4") for axis in ("x", "y", "z")] + [(c, "u1") for c in ("red", "green", "blue")]
)
TRIANGLE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])


@dataclass(frozen=True, slots=True)
class Mesh:
    """Coloured triangles."""

    vertices: np.ndarray  # [V, 3] float32, world, right-handed
    colors: np.ndarray  # [V, 3] uint8 RGB
    triangles: np.ndarray  # [T, 3] int32, counter-clockwise seen from where the cameras were


def write_mesh(saved: SavedMap, out: Path, choices: Choices) -> str:
    """Writes the surface that the keyframes' depths agree on."""
    mesh = fused_mesh(saved, choices)
    write_mesh_ply(out, mesh)
    return f"{len(mesh.vertices)} vertices, {len(mesh.triangles)} triangles"


def fused_mesh(saved: SavedMap, choices: Choices) -> Mesh:
    """Truncated signed distance fusion of all keyframes, then marching cubes.

    Depths that are not sure to the width of the fusion's band are left out, and so are shreds of
    less than SHRED triangles. Raises ValueError where nothing is left, and as `cloud_of` does.
    """
    voxel = choices.voxel
    if voxel is None:
        voxel = COARSER * choose_voxel_size(cloud_of(saved, choices).points)
    volume = Volume(voxel)
    for view in views(saved, choices):
        volume.allocate(_depth_image(saved, view, volume.truncation))
    for view in views(saved, choices):
        volume.integrate(_depth_image(saved, view, volume.truncation))
    mesh = without_shreds(_mesh(volume.surface(), voxel))
    if not len(mesh.triangles):
        raise ValueError(
            f"map of {saved.origin.name}: wanted depths that make a surface, got none; take a "
            "smaller --confidence or a larger --voxel"
        )
    return mesh


def _depth_image(saved: SavedMap, view: View, widest: float) -> DepthImage:
    """A view's depths that are sure enough. Args: widest: sigma of a depth, unit of the map."""
    grid = finest_grid(saved)
    T_WC = se3_matrix(view.keyframe.T_WC).numpy()
    value, information = view.depth.value.numpy(), view.depth.information.numpy()
    certain = view.known.numpy() & (information * value**4 * widest**2 > 1)
    shape = (grid.rows, grid.columns)
    return DepthImage(
        T_WC[:3, :3],
        T_WC[:3, 3],
        value.reshape(shape),
        np.where(certain, information, 0).reshape(shape),
        grid.stride,
        grid.offset,
        view.rgb.numpy(),
        saved.intrinsics,
    )


def _mesh(surface: Surface, voxel: float) -> Mesh:
    return Mesh(
        (surface.position * voxel).astype(np.float32),
        np.rint(surface.color).clip(0, 255).astype(np.uint8),
        np.searchsorted(surface.key, surface.triangles).astype(np.int32),
    )


def without_shreds(mesh: Mesh, least: int = SHRED) -> Mesh:
    """The mesh without pieces of fewer than `least` triangles."""
    count = len(mesh.vertices)
    a, b, c = mesh.triangles.T
    links = coo_array((np.ones(2 * len(a), bool), (np.r_[a, b], np.r_[b, c])), (count, count))
    pieces, piece = connected_components(links, directed=False)
    large = np.bincount(piece[a], minlength=pieces) >= least
    keep = large[piece]
    number = np.cumsum(keep) - 1
    triangles = number[mesh.triangles[keep[a]]].astype(np.int32)
    return replace(
        mesh, vertices=mesh.vertices[keep], colors=mesh.colors[keep], triangles=triangles
    )


def write_mesh_ply(path: Path, mesh: Mesh) -> None:
    """Writes binary little-endian PLY; the file appears complete or not at all."""
    vertices = np.empty(len(mesh.vertices), VERTEX)
    for column, axis in zip(mesh.vertices.T, ("x", "y", "z"), strict=True):
        vertices[axis] = column
    for column, channel in zip(mesh.colors.T, ("red", "green", "blue"), strict=True):
        vertices[channel] = column
    triangles = np.empty(len(mesh.triangles), TRIANGLE)
    triangles["count"], triangles["corners"] = 3, mesh.triangles
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property float {axis}" for axis in ("x", "y", "z")]
    header += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    header += [f"element face {len(triangles)}", "property list uchar int vertex_indices"]
    text = "\n".join([*header, "end_header", ""]).encode()
    write_atomically(path, text + vertices.tobytes() + triangles.tobytes())
