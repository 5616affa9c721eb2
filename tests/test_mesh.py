"""The fused mesh: closed, on the true surface, turned towards the cameras, in the right colours."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from saved_maps import CAMERA, around, made_map, sphere_depth
from simulated_room import CountingWorld

from slam.exports import tsdf
from slam.exports.marching_cubes import (
    CORNERS,
    HALF_RANGE,
    Sampled,
    lattice_key,
    lattice_place,
    surface_of,
    triangle_table,
)
from slam.exports.mesh import VERTEX, Mesh, fused_mesh, without_shreds, write_mesh_ply
from slam.exports.views import Choices
from slam.lie import se3_act, se3_inv
from slam.saved_map import SavedMap

VOXEL = 0.08


def edge_counts(triangles: np.ndarray) -> Counter[tuple[int, int]]:
    """How often each directed edge occurs."""
    sides = np.concatenate([triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    return Counter(map(tuple, sides.tolist()))


def normals(mesh: Mesh) -> np.ndarray:
    """[T, 3], as long as twice the area."""
    a, b, c = (mesh.vertices[mesh.triangles[:, k]].astype(float) for k in range(3))
    return np.cross(b - a, c - a)


@pytest.fixture(scope="module")
def ball() -> SavedMap:
    """A red sphere of radius 1 seen from 14 sides."""
    red = torch.zeros(72, 96, 3, dtype=torch.uint8) + torch.tensor([200, 40, 30]).byte()
    return made_map(around(14), sphere_depth, images=dict.fromkeys(range(14), red)).saved


@pytest.fixture(scope="module")
def sphere(ball: SavedMap) -> Mesh:
    return fused_mesh(ball, Choices(voxel=VOXEL))


# --- marching cubes ------------------------------------------------------------------------------


def sampled(value: np.ndarray, known: np.ndarray | None = None) -> Sampled:
    """One block."""
    shape = (1, *value.shape)
    grey, seen = np.full((*shape, 3), 100.0), np.ones(shape, bool)
    whole = np.ones(shape, bool) if known is None else known[None]
    return Sampled(np.zeros((1, 3), np.int64), value[None], whole, grey, seen)


def test_all_256_cases_have_triangles_on_the_crossed_edges_only() -> None:
    counts = triangle_table()[1]
    assert counts[0] == counts[255] == 0 and (counts[1:255] > 0).all()
    for case in range(1, 255):
        value = np.where([case >> n & 1 for n in range(8)], -1.0, 1.0)
        cell = np.empty((2, 2, 2))
        cell[tuple(CORNERS.T)] = value
        surface = surface_of(sampled(cell))
        assert len(surface.triangles) == counts[case]
        crossed = sum(
            value[a] != value[b] for a in range(8) for b in range(a) if (a ^ b).bit_count() == 1
        )
        assert len(surface.key) == crossed


def test_a_surface_of_noise_has_no_cracks() -> None:
    value = np.random.default_rng(4).normal(size=(14, 14, 14))
    value[[0, -1]] = value[:, [0, -1]] = value[:, :, [0, -1]] = 1.0  # so that it closes
    surface = surface_of(sampled(value))
    counts = edge_counts(np.searchsorted(surface.key, surface.triangles))
    assert len(surface.triangles) > 3000
    assert all(counts[b, a] == count for (a, b), count in counts.items())


def test_a_plane_is_where_it_is_between_the_corners() -> None:
    x, y, z = np.mgrid[:6, :6, :6].astype(float)
    surface = surface_of(sampled(0.3 * x - 0.2 * y + z - 2.6))
    X = surface.position
    np.testing.assert_allclose(X @ [0.3, -0.2, 1.0], 2.6, atol=1e-9)
    a, b, c = (X[np.searchsorted(surface.key, surface.triangles[:, k])] for k in range(3))
    assert (np.cross(b - a, c - a) @ [0.3, -0.2, 1.0] > -1e-12).all()  # towards the positive side


def test_cells_that_were_not_all_seen_stay_open() -> None:
    z = np.mgrid[:6, :6, :6][2].astype(float)
    known = np.ones((6, 6, 6), bool)
    known[2, 2, 2] = False
    whole = surface_of(sampled(z - 2.5))
    open_ = surface_of(sampled(z - 2.5, known))
    assert len(whole.triangles) == 50 and len(open_.triangles) == 50 - 8


def test_lattice_places_come_back_from_their_keys_in_order() -> None:
    generator = np.random.default_rng(0)
    place = generator.integers(-HALF_RANGE, HALF_RANGE, (1000, 3))
    key = lattice_key(place)
    np.testing.assert_array_equal(lattice_place(key), place)
    assert (key >= 0).all() and (3 * key + 2 > 0).all()
    order = np.lexsort(place.T[::-1])
    assert (np.diff(key[order]) >= 0).all()


# --- fusion --------------------------------------------------------------------------------------


def test_a_sphere_seen_from_all_sides_is_closed(sphere: Mesh) -> None:
    counts = edge_counts(sphere.triangles)
    assert set(counts.values()) == {1} and all((b, a) in counts for a, b in counts)
    corners, edges, faces = len(sphere.vertices), len(counts) // 2, len(sphere.triangles)
    assert faces > 1500 and corners - edges + faces == 2  # one piece without handles


def test_a_spheres_vertices_are_on_it_and_its_triangles_face_out(sphere: Mesh) -> None:
    radius = np.linalg.norm(sphere.vertices, axis=1)
    assert np.abs(radius - 1).max() < 0.2 * VOXEL
    assert np.sqrt(((radius - 1) ** 2).mean()) < 0.05 * VOXEL
    middle = sphere.vertices[sphere.triangles].mean(1)
    volume = (normals(sphere) * middle).sum() / 6
    assert volume == pytest.approx(4 / 3 * np.pi, rel=0.02)
    assert np.abs(sphere.colors.astype(int) - [200, 40, 30]).max() <= 4


def test_triangles_are_as_many_as_the_voxel_says(ball: SavedMap, sphere: Mesh) -> None:
    coarse = fused_mesh(ball, Choices(voxel=1.5 * VOXEL))
    assert len(sphere.triangles) == pytest.approx(1.5**2 * len(coarse.triangles), rel=0.1)


def test_a_thing_thinner_than_the_band_keeps_its_size() -> None:
    small = made_map(around(14, 2.0), lambda T: sphere_depth(T, 0.3)).saved
    mesh = fused_mesh(small, Choices(voxel=VOXEL))  # 7.5 voxels across, the band is 8 deep
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert np.abs(radius - 0.3).max() < 0.25 * VOXEL


def test_a_wall_is_there_to_the_edges_of_the_image() -> None:
    (pose,) = around(1)
    wall = made_map([pose], lambda _: torch.full((72, 96), 2.0)).saved
    mesh = fused_mesh(wall, Choices(voxel=VOXEL))
    X = torch.from_numpy(mesh.vertices).double()
    X_C = se3_act(se3_inv(pose).expand(len(X), 7), X)
    assert (X_C[:, 2] - 2).abs().max() < 0.01 * VOXEL
    fx, fy, _, _ = CAMERA.intrinsics
    width, height = 95 * 2 / fx, 71 * 2 / fy  # of what the pixels' centres span
    area = 0.5 * np.linalg.norm(normals(mesh), axis=1).sum()
    rim = 2 * VOXEL * (width + height)  # a voxel all round: cells that are not all seen
    assert width * height - rim < area < width * height + rim


def test_a_room_seen_from_inside_is_where_it_is() -> None:
    world = CountingWorld()
    frames = range(0, 72, 8)
    poses = [world.read(index).T_WC for index in frames]
    depths = {tuple(T.tolist()): world.read(i).depth for i, T in zip(frames, poses, strict=True)}
    made = made_map(poses, lambda T: depths[tuple(T.tolist())], dense_stride=2)
    mesh = fused_mesh(made.saved, Choices(voxel=0.06))
    off = np.minimum(np.abs(mesh.vertices), np.abs(mesh.vertices - [6.0, 5.0, 3.0])).min(1)
    walls = off < 0.06
    assert len(mesh.triangles) > 8000 and walls.mean() > 0.6  # the rest: things in the room
    assert np.median(off[walls]) < 0.02 * 0.06  # and the feet of those things
    assert np.percentile(off[walls], 90) < 0.2 * 0.06
    inward = np.array([3.0, 2.5, 1.5]) - mesh.vertices[mesh.triangles].mean(1)
    on_wall = walls[mesh.triangles].all(1)
    assert ((normals(mesh) * inward).sum(1)[on_wall] > 0).mean() > 0.99


def test_what_another_view_sees_through_is_carved_away() -> None:
    poses = around(14)
    near = poses[0]

    def depth_of(T_WC: torch.Tensor) -> torch.Tensor:
        depth = sphere_depth(T_WC)
        if torch.equal(T_WC, near):  # one view has a floating patch before the sphere
            depth[30:42, 40:56] = 1.7
        return depth

    mesh = fused_mesh(made_map(poses, depth_of).saved, Choices(voxel=VOXEL))
    seen = np.linalg.norm(mesh.vertices, axis=1)
    assert (seen < 1.1).mean() > 0.9


def test_voxels_that_are_none_or_too_many_are_refused(
    ball: SavedMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tsdf, "MOST_BLOCKS", 40)
    with pytest.raises(ValueError, match="above 0, got 0"):
        fused_mesh(ball, Choices(voxel=0.0))
    with pytest.raises(ValueError, match=r"at most \d+ blocks of 8 voxels .*; take a larger one"):
        fused_mesh(ball, Choices(voxel=VOXEL))
    with pytest.raises(ValueError, match=r"make a surface, got none"):
        fused_mesh(ball, Choices(voxel=2.0))


def test_shreds_go_and_the_rest_keeps_its_shape(sphere: Mesh) -> None:
    count = len(sphere.vertices)
    shred = np.array([[count, count + 1, count + 2]], np.int32)
    grey = np.full((3, 3), 9, np.uint8)
    torn = Mesh(
        np.concatenate([sphere.vertices, np.eye(3, dtype=np.float32)]),
        np.concatenate([sphere.colors, grey]),
        np.concatenate([shred, sphere.triangles]),
    )
    kept = without_shreds(torn)
    np.testing.assert_array_equal(kept.vertices, sphere.vertices)
    np.testing.assert_array_equal(kept.triangles, sphere.triangles)
    assert len(without_shreds(torn, least=1).vertices) == count + 3


def test_a_mesh_file_holds_the_mesh(sphere: Mesh, tmp_path: Path) -> None:
    write_mesh_ply(tmp_path / "mesh.ply", sphere)
    header, body = (tmp_path / "mesh.ply").read_bytes().split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    assert f"element vertex {len(sphere.vertices)}" in lines
    assert lines[-2:] == [
        f"element face {len(sphere.triangles)}",
        "property list uchar int vertex_indices",
    ]
    vertices = np.frombuffer(body, VERTEX, len(sphere.vertices))
    np.testing.assert_array_equal(vertices["y"], sphere.vertices[:, 1])
    np.testing.assert_array_equal(vertices["green"], sphere.colors[:, 1])
    rest = body[vertices.nbytes :]
    faces = np.frombuffer(rest, [("n", "u1"), ("corners", "<i4", 3)])
    assert (faces["n"] == 3).all()
    np.testing.assert_array_equal(faces["corners"], sphere.triangles)
