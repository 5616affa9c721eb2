"""Point clouds: PLY files that other programs read, and voxel grids that keep weighted means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slam.export import choose_voxel_size, read_ply, voxel_downsample, write_ply


def random_cloud(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(count)
    points = generator.normal(size=(count, 3)).astype(np.float32)
    colors = generator.integers(0, 256, (count, 3), dtype=np.uint8)
    return points, colors, generator.uniform(0, 50, count).astype(np.float32)


@pytest.mark.parametrize("count", [0, 1, 1000])
@pytest.mark.parametrize("with_confidence", [False, True])
def test_ply_reads_back_exactly(tmp_path: Path, count: int, with_confidence: bool) -> None:
    points, colors, confidence = random_cloud(count)
    write_ply(tmp_path / "m.ply", points, colors, confidence if with_confidence else None)
    cloud = read_ply(tmp_path / "m.ply")
    np.testing.assert_array_equal(cloud.points, points)
    np.testing.assert_array_equal(cloud.colors, colors)
    assert (cloud.confidence is not None) == with_confidence
    if cloud.confidence is not None:
        np.testing.assert_array_equal(cloud.confidence, confidence)
    assert [file.name for file in tmp_path.iterdir()] == ["m.ply"]


def test_ply_bytes_are_as_the_format_says(tmp_path: Path) -> None:
    points = np.array([[1, 2, 3]], np.float32)
    write_ply(tmp_path / "m.ply", points, np.array([[7, 8, 9]], np.uint8))
    header, body = (tmp_path / "m.ply").read_bytes().split(b"end_header\n")
    assert header.decode().splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 1",
        "property float x",
        "property float y",
        "property float z",
        "property uchar red",
        "property uchar green",
        "property uchar blue",
    ]
    assert body == np.array([1, 2, 3], "<f4").tobytes() + bytes([7, 8, 9])


def test_ply_of_other_programs_is_read(tmp_path: Path) -> None:
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment by another program\nelement vertex 2\n"
        "property double x\nproperty double y\nproperty double z\nproperty float nx\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    )
    vertices = np.zeros(2, [("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("nx", "<f4")])
    vertices["z"] = [1.5, 2.5]
    content = header.encode() + vertices.tobytes() + b"\x03" + bytes(12)
    (tmp_path / "m.ply").write_bytes(content)
    cloud = read_ply(tmp_path / "m.ply")
    np.testing.assert_array_equal(cloud.points, [[0, 0, 1.5], [0, 0, 2.5]])
    np.testing.assert_array_equal(cloud.colors, np.full((2, 3), 128))


def test_ply_that_is_none_or_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.ply"
    with pytest.raises(FileNotFoundError, match=r"m\.ply"):
        read_ply(path)
    points, colors, _ = random_cloud(10)
    write_ply(path, points, colors)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut off"):
        read_ply(path)
    for content in (b"", b"\x00\xff", b"ply\nformat ascii 1.0\nelement vertex 1\nend_header\n0"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="binary little-endian"):
            read_ply(path)


def test_clouds_of_wrong_type_or_with_nan_are_refused(tmp_path: Path) -> None:
    points, colors, confidence = random_cloud(5)
    with pytest.raises(ValueError, match="float64"):
        write_ply(tmp_path / "m.ply", points.astype(np.float64), colors)
    with pytest.raises(ValueError, match="colors"):
        write_ply(tmp_path / "m.ply", points, colors[:4])
    with pytest.raises(ValueError, match="confidence"):
        write_ply(tmp_path / "m.ply", points, colors, confidence[:4])
    points[3, 1] = np.nan
    with pytest.raises(ValueError, match="point 3"):
        write_ply(tmp_path / "m.ply", points, colors)
    assert not (tmp_path / "m.ply").exists()


def test_voxels_keep_the_confidence_weighted_mean() -> None:
    points = np.array([[0.1, 0.1, 0.1], [0.5, 0.1, 0.1], [-0.1, 0.1, 0.1]], np.float32)
    colors = np.array([[0, 0, 0], [200, 100, 40], [9, 9, 9]], np.uint8)
    cloud = voxel_downsample(points, colors, np.array([1, 3, 5], np.float32), 1.0)
    np.testing.assert_allclose(cloud.points, [[-0.1, 0.1, 0.1], [0.4, 0.1, 0.1]], atol=1e-6)
    np.testing.assert_array_equal(cloud.colors, [[9, 9, 9], [150, 75, 30]])
    assert cloud.confidence is not None
    np.testing.assert_allclose(cloud.confidence, [5, 2.5])


def test_voxels_equal_a_dictionary_of_cells() -> None:
    points, colors, confidence = random_cloud(3000)
    cells: dict[tuple[int, ...], list[int]] = {}
    for row, cell in enumerate(np.floor(points.astype(np.float64) / 0.3).astype(int)):
        cells.setdefault(tuple(cell.tolist()), []).append(row)
    cloud = voxel_downsample(points, colors, confidence, 0.3)
    assert len(cloud.points) == len(cells)
    for place, cell in enumerate(sorted(cells)):
        rows = cells[cell]
        mean = np.average(points[rows], axis=0, weights=confidence[rows])
        np.testing.assert_allclose(cloud.points[place], mean, atol=1e-5)


def test_voxels_far_apart_do_not_collide() -> None:
    points = np.array([[0, 0, 0], [1e12, 0, 0], [0, 1e12, 0], [0, 0, 1e12]], np.float32)
    cloud = voxel_downsample(points, np.zeros((4, 3), np.uint8), None, 0.01)
    assert len(cloud.points) == 4
    assert cloud.confidence is None


def test_voxels_without_confidence_or_points() -> None:
    points = np.array([[0.2, 0, 0], [0.4, 0, 0]], np.float32)
    colors = np.zeros((2, 3), np.uint8)
    zero = np.zeros(2, np.float32)
    for confidence in (None, zero):
        cloud = voxel_downsample(points, colors, confidence, 1.0)
        np.testing.assert_allclose(cloud.points, [[0.3, 0, 0]], atol=1e-6)
    assert len(voxel_downsample(points[:0], colors[:0], None, 1.0).points) == 0
    with pytest.raises(ValueError, match="above 0"):
        voxel_downsample(points, colors, None, 0.0)


def test_voxel_size_follows_the_scene_and_not_its_outliers() -> None:
    points = np.random.default_rng(0).uniform(0, 10, (20_000, 3)).astype(np.float32)
    size = choose_voxel_size(points)
    assert size == pytest.approx(9 * np.sqrt(3) / 512, rel=0.02)
    assert choose_voxel_size(points * 7) == pytest.approx(7 * size, rel=1e-4)
    points[:100] = 1e6
    assert choose_voxel_size(points) == pytest.approx(size, rel=0.05)
    with pytest.raises(ValueError, match="extent"):
        choose_voxel_size(np.zeros((5, 3), np.float32))
    with pytest.raises(ValueError, match="none"):
        choose_voxel_size(np.zeros((0, 3), np.float32))
