"""Exports of saved maps: what other programs read is what the map holds."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import CommandResult, expect_one_line
from saved_maps import CAMERA, PREDICTOR, SIGMA, Parts, around, made_map, sphere_depth
from scipy.spatial.transform import Rotation
from sequences import cut_sample
from simulated_room import CountingWorld

from slam.config import Config
from slam.export import read_ply
from slam.exports.formats import FORMATS
from slam.exports.registry import WRITERS, export_map
from slam.exports.views import Choices, cloud_of
from slam.lie import se3_act, se3_inv, se3_matrix
from slam.predictors.factory import make_predictor
from slam.saved_map import SavedMap, load_map, restore_graph
from slam.tracking import unproject
from slam.trajectory import read_trajectory

Command = Callable[..., CommandResult]
MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def made() -> Parts:
    """A camera that goes through a room."""
    world = CountingWorld()
    poses = [world.read(index).T_WC for index in range(0, 48, 8)]
    depths = {tuple(T.tolist()): world.read(8 * k).depth for k, T in enumerate(poses)}
    return made_map(poses, lambda T: depths[tuple(T.tolist())], dense_stride=2)


@pytest.fixture(scope="module")
def saved(made: Parts) -> SavedMap:
    return made.saved


@pytest.fixture(scope="module")
def model(saved: SavedMap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COLMAP models of it, text and binary."""
    folder = tmp_path_factory.mktemp("colmap")
    export_map(saved, "colmap", folder / "text", Choices())
    export_map(saved, "colmap-bin", folder / "binary", Choices())
    return folder


# --- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["tum", "euroc", "kitti"])
def test_paths_read_back(saved: SavedMap, tmp_path: Path, format: str) -> None:
    export_map(saved, format, tmp_path / "path.txt", Choices())
    path, wanted = read_trajectory(tmp_path / "path.txt", format), saved.poses()
    np.testing.assert_allclose(path.positions, wanted.positions, atol=1e-7)
    turn = (path.rotations.inv() * wanted.rotations).magnitude()
    assert len(path) == len(wanted) == 17 and turn.max() < 1e-7
    times = path.times
    if format == "kitti":
        times = np.loadtxt(tmp_path / "path_times.txt")
    np.testing.assert_allclose(times, wanted.times, rtol=0, atol=1e-6)


def test_euroc_rows_are_as_its_data_sets_write_them(saved: SavedMap, tmp_path: Path) -> None:
    export_map(saved, "euroc", tmp_path / "path.csv", Choices())
    header, first, *_ = (tmp_path / "path.csv").read_text().splitlines()
    assert header.startswith("#timestamp [ns], p_RS_R_x [m]") and "q_RS_w [], q_RS_x" in header
    cells = first.split(",")
    tx, ty, tz, qx, qy, qz, qw = saved.poses().poses[0]
    assert cells[0] == "100500000000"
    np.testing.assert_allclose([float(c) for c in cells[1:]], [tx, ty, tz, qw, qx, qy, qz])


def test_paths_of_a_left_handed_source_are_left_handed(tmp_path: Path) -> None:
    mirrored = made_map(around(3), sphere_depth, mirrored=True).saved
    export_map(mirrored, "kitti", tmp_path / "path.txt", Choices())
    rows = np.loadtxt(tmp_path / "path.txt").reshape(-1, 3, 4)
    ours = se3_matrix(torch.from_numpy(mirrored.poses().poses)).numpy()
    np.testing.assert_allclose(rows, (MIRROR @ ours @ MIRROR)[:, :3], atol=1e-8)


# --- COLMAP --------------------------------------------------------------------------------------

Images = dict[int, tuple[list[float], str, np.ndarray]]  # T_CW qw..tz, name, x y point
Points = dict[int, tuple[np.ndarray, list[int], float, np.ndarray]]  # X, rgb, error, track


def read_text(folder: Path) -> tuple[list[float], Images, Points]:
    def rows(name: str) -> list[list[str]]:
        lines = (folder / name).read_text().splitlines()
        return [line.split() for line in lines if not line.startswith("#")]

    (camera,) = rows("cameras.txt")
    assert camera[:4] == ["1", "PINHOLE", "96", "72"]
    images, points = {}, {}
    listed = rows("images.txt")
    for head, seen in zip(listed[::2], listed[1::2], strict=True):
        pose, table = [float(c) for c in head[1:8]], np.array(seen, float).reshape(-1, 3)
        images[int(head[0])] = pose, head[9], table
    for row in rows("points3D.txt"):
        X, color = np.array(row[1:4], float), [int(c) for c in row[4:7]]
        points[int(row[0])] = X, color, float(row[7]), np.array(row[8:], int).reshape(-1, 2)
    return [float(c) for c in camera[4:]], images, points


def read_binary(folder: Path) -> tuple[list[float], Images, Points]:
    def take(content: bytearray, layout: str) -> tuple:
        size = struct.calcsize(layout)
        values = struct.unpack(layout, content[:size])
        del content[:size]
        return values

    camera = struct.unpack("<QiiQQ4d", (folder / "cameras.bin").read_bytes())
    assert camera[:5] == (1, 1, 1, 96, 72)
    images, points = {}, {}
    content = bytearray((folder / "images.bin").read_bytes())
    for _ in range(take(content, "<Q")[0]):
        number, *pose, _ = take(content, "<i7di")
        name = bytes(content[: content.index(0)]).decode()
        del content[: len(name) + 1]
        rows = [take(content, "<ddq") for _ in range(take(content, "<Q")[0])]
        images[number] = list(pose), name, np.array(rows)
    assert not content
    content = bytearray((folder / "points3D.bin").read_bytes())
    for _ in range(take(content, "<Q")[0]):
        number, x, y, z, r, g, b, error, length = take(content, "<Q3d3BdQ")
        track = np.array(take(content, f"<{2 * length}i")).reshape(-1, 2)
        points[number] = np.array([x, y, z]), [r, g, b], error, track
    assert not content
    return list(camera[5:]), images, points


def test_colmap_text_and_binary_say_the_same(model: Path) -> None:
    (K, images, points), (K2, images2, points2) = (
        read_text(model / "text"),
        read_binary(model / "binary"),
    )
    assert K == K2 and list(images) == list(images2) and list(points) == list(points2)
    for one, other in zip(images.values(), images2.values(), strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_allclose(one[2], other[2], atol=6e-4)
    for one, other in zip(points.values(), points2.values(), strict=True):
        assert one[1] == other[1] and one[2] == pytest.approx(other[2], abs=1e-4)
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[3], other[3])


def test_colmap_points_project_to_where_their_tracks_say(model: Path, saved: SavedMap) -> None:
    (fx, fy, cx, cy), images, points = read_binary(model / "binary")
    np.testing.assert_allclose([fx, fy, cx - 0.5, cy - 0.5], CAMERA.intrinsics)
    own, lengths, errors = 0.0, [], []
    for number, (X, _, error, track) in points.items():
        away = []
        for image, place in track:
            (qw, qx, qy, qz, *t), name, seen = images[image]
            assert seen[place][2] == number
            x, y, z = Rotation.from_quat([qx, qy, qz, qw]).apply(X) + t
            away.append(
                np.hypot(fx * x / z + cx - seen[place][0], fy * y / z + cy - seen[place][1])
            )
            assert (model / "binary" / "images" / name).is_file()
        assert error == pytest.approx(np.mean(away), abs=1e-3)
        own = max(own, away[0])
        lengths.append(len(track))
        errors.append(error)
    assert own < 1e-3 and np.mean(errors) < 0.05 and max(lengths) == 3 and np.mean(lengths) > 1.8
    assert sum(len(seen) for _, _, seen in images.values()) == sum(lengths)
    assert [images[1][1], images[2][1]] == ["000000.jpg", "000003.jpg"]


def test_colmap_tracks_leave_out_matches_that_disagree_with_the_depth(tmp_path: Path) -> None:
    made = made_map(around(2), sphere_depth)
    edges = made.graph.edges()
    wrong = {e: replace(m, target=m.target + torch.tensor([3.0, 0.0])) for e, m in edges.items()}
    made.graph.set_edges([(0, 1)], wrong)
    saved = SavedMap.from_graph(made.graph, made.origin, Config(), PREDICTOR.grid, made.dense)
    for one, seen in ((made.saved, 2), (saved, 1)):
        export_map(one, "colmap-bin", tmp_path, Choices())
        lengths = [len(track) for *_, track in read_binary(tmp_path)[2].values()]
        assert max(lengths) == seen


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_pycolmap_reads_the_model(model: Path, kind: str) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    found = pycolmap.Reconstruction(str(model / kind))
    assert found.num_images() == 6 and found.num_points3D() > 500
    assert found.compute_mean_reprojection_error() < 0.05


# --- images with poses ---------------------------------------------------------------------------


def test_nerfstudio_cameras_see_the_points_where_they_are(saved: SavedMap, tmp_path: Path) -> None:
    export_map(saved, "nerfstudio", tmp_path / "nerf", Choices())
    about = json.loads((tmp_path / "nerf" / "transforms.json").read_text())
    assert (about["w"], about["h"], len(about["frames"])) == (96, 72, 6)
    cloud = read_ply(tmp_path / "nerf" / about["ply_file_path"])
    np.testing.assert_array_equal(cloud.points, cloud_of(saved, Choices()).points)
    X_W = np.column_stack([cloud.points, np.ones(len(cloud.points))]).astype(float)
    for frame, keyframe in zip(about["frames"], saved.keyframes, strict=True):
        x, y, z, _ = np.linalg.inv(np.array(frame["transform_matrix"])) @ X_W.T
        front = z < -0.3  # OpenGL: the camera looks along -z, y is up
        u = about["fl_x"] * x / -z + about["cx"]
        v = -about["fl_y"] * y / -z + about["cy"]
        T = se3_inv(keyframe.T_WC).expand(len(X_W), 7)
        pixel = CAMERA.project(se3_act(T, torch.from_numpy(X_W[:, :3]))).numpy()
        np.testing.assert_allclose(np.stack([u, v], -1)[front] - 0.5, pixel[front], atol=1e-6)
        rgb = cv2.imread(str(tmp_path / "nerf" / frame["file_path"]))[..., ::-1]
        np.testing.assert_array_equal(rgb, keyframe.rgb.numpy())


def test_depth_images_hold_the_depths(saved: SavedMap, tmp_path: Path) -> None:
    export_map(saved, "depth", tmp_path / "depth", Choices())
    about = json.loads((tmp_path / "depth" / "depth.json").read_text())
    grid = saved.dense_grid
    assert grid is not None and about["size"] == [96, 72] and len(about["frames"]) == 6
    assert about["intrinsics"] == list(CAMERA.intrinsics)
    for frame, keyframe in zip(about["frames"], saved.keyframes, strict=True):
        image = cv2.imread(str(tmp_path / "depth" / frame["depth"]), cv2.IMREAD_UNCHANGED)
        assert image.shape == (72, 96) and image.dtype == np.uint16
        depth = keyframe.dense.unpack() if keyframe.dense is not None else None
        assert depth is not None and frame["T_WC"] == keyframe.T_WC.tolist()
        wanted = np.where(depth.information > 0, 1 / depth.value.double(), 0)
        got = grid.sample(torch.from_numpy(image.astype(float))).numpy() / about["per_unit"]
        held = got > 0
        assert (held == (wanted > 0))[wanted < 65535 / about["per_unit"]].all()
        assert held.mean() > 0.95 and held[wanted == 0].sum() == 0
        assert np.abs(got - wanted)[held].max() <= 0.51 / about["per_unit"]
        same = image[1:71:2, 1:95:2]
        for down, right in ((0, 0), (1, 0), (0, 1)):  # the pixels whose nearest this one is
            np.testing.assert_array_equal(image[down : 70 + down : 2, right : 94 + right : 2], same)
        assert (tmp_path / "depth" / frame["rgb"]).is_file()


# --- points --------------------------------------------------------------------------------------


def test_points_are_those_of_the_depths(made: Parts, tmp_path: Path) -> None:
    export_map(made.saved, "ply", tmp_path / "map.ply", Choices(voxel=1e-4))
    cloud = read_ply(tmp_path / "map.ply")
    grid, depths = made.dense
    wanted = []
    for keyframe, depth in zip(made.graph.keyframes(), depths, strict=True):
        keep = depth.information > 0
        X = unproject(grid.pixel[keep], depth.value[keep], CAMERA.intrinsics).double()
        wanted.append(se3_act(keyframe.T_WC.expand(len(X), 7), X).numpy())
    rows = np.concatenate(wanted)
    assert len(cloud.points) == pytest.approx(len(rows), rel=0.02)  # hardly two in a voxel
    low, high = rows.min(0), rows.max(0)
    np.testing.assert_allclose([cloud.points.min(0), cloud.points.max(0)], [low, high], atol=0.01)
    assert cloud.confidence is not None
    np.testing.assert_allclose(cloud.confidence, 1 / SIGMA, rtol=2e-3)


def test_confidence_and_voxel_choose_the_points(saved: SavedMap, tmp_path: Path) -> None:
    assert len(cloud_of(saved, Choices(voxel=0.5)).points) < 400
    for least in (0.0, 0.99 / SIGMA):
        all_of = cloud_of(saved, Choices(confidence=least, voxel=0.001))
        assert len(all_of.points) > 5000
    with pytest.raises(ValueError, match=r"confidence 252\.5 or more, got none; take a smaller"):
        cloud_of(saved, Choices(confidence=1.01 / SIGMA))
    with pytest.raises(ValueError, match="wanted 0 or more, got -1"):
        cloud_of(saved, Choices(confidence=-1))


def test_glb_is_valid_and_holds_the_points(saved: SavedMap, tmp_path: Path) -> None:
    export_map(saved, "glb", tmp_path / "map.glb", Choices())
    content = (tmp_path / "map.glb").read_bytes()
    assert struct.unpack("<4sII", content[:12]) == (b"glTF", 2, len(content))
    size, kind = struct.unpack("<I4s", content[12:20])
    assert kind == b"JSON" and size % 4 == 0
    scene = json.loads(content[20 : 20 + size])
    body = content[28 + size :]
    assert struct.unpack("<I4s", content[20 + size : 28 + size]) == (len(body), b"BIN\0")
    assert scene["asset"]["version"] == "2.0" and scene["buffers"] == [{"byteLength": len(body)}]
    (primitive,) = scene["meshes"][scene["nodes"][0]["mesh"]]["primitives"]
    assert primitive["mode"] == 0 and scene["scenes"][scene["scene"]]["nodes"] == [0]
    arrays = {}
    for name, number in primitive["attributes"].items():
        accessor = scene["accessors"][number]
        view = scene["bufferViews"][accessor["bufferView"]]
        width = {"VEC3": 3, "VEC4": 4}[accessor["type"]]
        numbers = np.dtype({5126: "<f4", 5123: "<u2"}[accessor["componentType"]])
        assert view["byteOffset"] % 4 == 0 and width * numbers.itemsize % 4 == 0
        assert view["byteLength"] == accessor["count"] * width * numbers.itemsize
        block = body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        arrays[name] = accessor, np.frombuffer(block, numbers).reshape(-1, width)
    accessor, positions = arrays["POSITION"]
    cloud = cloud_of(saved, Choices())
    np.testing.assert_array_equal(positions, cloud.points)
    assert accessor["min"] == positions.min(0).tolist()
    assert accessor["max"] == positions.max(0).tolist()
    accessor, colors = arrays["COLOR_0"]
    assert accessor["normalized"] is True and (colors[:, 3] == 65535).all()
    linear = colors[:, :3] / 65535
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_array_equal(np.rint(255 * curved), cloud.colors)
    up = Rotation.from_quat(scene["nodes"][0]["rotation"]).apply([0, -1, 0])  # ours: y is down
    np.testing.assert_allclose(up, [0, 1, 0], atol=1e-12)


# --- the command ---------------------------------------------------------------------------------


def test_every_format_has_a_writer_and_a_line_in_the_help(run_cli: Command) -> None:
    assert list(FORMATS) == list(WRITERS)
    shown = run_cli("map", "export", "--help").out
    assert all(f"  {name} " in shown and one.help in shown for name, one in FORMATS.items())


@pytest.mark.parametrize("format", FORMATS)
def test_a_map_without_keyframes_is_refused_in_one_line(tmp_path: Path, format: str) -> None:
    empty = made_map([], sphere_depth).saved
    with pytest.raises(ValueError, match=r"map of made: wanted (keyframes|frames with a pose)"):
        export_map(empty, format, tmp_path / "out", Choices())
    assert not list(tmp_path.iterdir())


def test_a_run_leaves_a_map_that_exports_as_the_run_did(tmp_path: Path, run_cli: Command) -> None:
    source, out = cut_sample(tmp_path / "cut", range(0, 60, 2)), tmp_path / "out"
    assert run_cli("run", source, "--out", out, "--set", "flow.long_side=160").code == 0
    assert run_cli("map", "check", out).code == 0
    for format, name in (("tum", "path.txt"), ("ply", "map.ply")):
        done = run_cli("map", "export", out, "--format", format, "-o", tmp_path / name)
        assert done.code == 0 and str(tmp_path / name) in done.out
    assert (tmp_path / "path.txt").read_text() == (out / "trajectory.txt").read_text()
    mine, theirs = read_ply(tmp_path / "map.ply"), read_ply(out / "map.ply")
    assert len(mine.points) == pytest.approx(len(theirs.points), rel=0.01)
    extent = np.ptp(theirs.points, axis=0)
    np.testing.assert_allclose(mine.points.mean(0), theirs.points.mean(0), atol=2e-3 * extent.max())
    saved = load_map(out)
    predictor = make_predictor(
        saved.origin.camera.width, saved.origin.camera.height, saved.settings()
    )
    graph = restore_graph(saved, predictor)
    assert len(graph) == len(saved.keyframes) > 1 and len(graph.edges()) > 1
    assert saved.origin.path == str(source) and saved.origin.calibrated
    (tmp_path / "taken").mkdir()
    expect_one_line(
        run_cli("map", "export", out, "--format", "glb", "-o", tmp_path / "taken"), "wants a file"
    )
    expect_one_line(
        run_cli("map", "export", out, "--format", "depth", "-o", tmp_path / "map.ply"),
        "wants a folder",
    )
