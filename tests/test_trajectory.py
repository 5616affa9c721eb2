"""Trajectory files: what is written comes back, what is no trajectory is named with its line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from slam.trajectory import Trajectory, associate, detect_format, read_trajectory, write_tum


def random_trajectory(count: int, *, start: float = 1305031102.175304) -> Trajectory:
    generator = np.random.default_rng(count)
    quaternions = Rotation.random(count, rng=generator).as_quat()
    times = start + np.round(np.arange(count) / 30, 6)
    return Trajectory(
        times, np.concatenate([generator.normal(size=(count, 3)), quaternions], axis=1)
    )


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_written_tum_file_reads_back(tmp_path: Path) -> None:
    trajectory = random_trajectory(50)
    write_tum(tmp_path / "new" / "t.txt", trajectory)
    back = read_trajectory(tmp_path / "new" / "t.txt")
    np.testing.assert_allclose(back.times, trajectory.times, atol=1e-6, rtol=0)
    np.testing.assert_allclose(back.poses, trajectory.poses, atol=2e-8)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["t.txt"]


def test_frame_numbers_are_written_as_integers(tmp_path: Path) -> None:
    poses = random_trajectory(3).poses
    write_tum(tmp_path / "t.txt", Trajectory(np.array([1.0, 2.0, 5.0]), poses))
    stamps = [line.split()[0] for line in (tmp_path / "t.txt").read_text().splitlines()[1:]]
    assert stamps == ["1", "2", "5"]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "t.txt"
    target.mkdir()
    with pytest.raises(OSError):
        write_tum(target, random_trajectory(3))
    assert list(tmp_path.iterdir()) == [target]


def test_tum_reads_commas_comments_and_byte_order_mark(tmp_path: Path) -> None:
    rows = "# header\n\n1.5, 1,2,3, 0,0,0,1\n2.5 4 5 6 0 0 0.70710678 0.70710678\n"
    path = tmp_path / "t.csv"
    path.write_text(rows, encoding="utf-8-sig")
    trajectory = read_trajectory(path)
    assert detect_format(path) == "tum"
    np.testing.assert_array_equal(trajectory.times, [1.5, 2.5])
    np.testing.assert_array_equal(trajectory.positions, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_allclose(trajectory.rotations.as_rotvec()[1], [0, 0, np.pi / 2], atol=1e-8)


def test_kitti_rows_are_matrices_and_times_are_rows(tmp_path: Path) -> None:
    trajectory = random_trajectory(5)
    R = trajectory.rotations.as_matrix()
    matrices = np.concatenate([R, trajectory.positions[:, :, None]], axis=2)
    np.savetxt(tmp_path / "poses.txt", matrices.reshape(5, 12))
    back = read_trajectory(tmp_path / "poses.txt")
    assert detect_format(tmp_path / "poses.txt") == "kitti"
    np.testing.assert_array_equal(back.times, np.arange(5))
    np.testing.assert_allclose(back.positions, trajectory.positions, atol=1e-12)
    np.testing.assert_allclose(back.rotations.as_matrix(), R, atol=1e-12)


@pytest.mark.parametrize("tail", ["", ",0.1,0.2,0.3,0,0,0,0,0,0"])
def test_euroc_rows_have_nanoseconds_and_w_first(tmp_path: Path, tail: str) -> None:
    header = "#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], ...\n"
    rows = f"1403636580838555648,1,2,3,0.8,0.6,0,0{tail}\n1403636580843555648,4,5,6,1,0,0,0{tail}\n"
    path = write(tmp_path / "data.csv", header + rows)
    trajectory = read_trajectory(path)
    assert detect_format(path) == "euroc"
    np.testing.assert_allclose(trajectory.times, [1403636580.8385556, 1403636580.8435556])
    np.testing.assert_allclose(trajectory.poses[0], [1, 2, 3, 0.6, 0, 0, 0.8])


def test_quaternions_are_normalised(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "0 0 0 0 0 0 0.6025 0.8\n")
    norm = np.linalg.norm(read_trajectory(path).quaternions)
    assert norm == pytest.approx(1, abs=1e-15)


POSE = "0 0 0 0 0 0 1"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "found no rows"),
        ("# only\n# comments\n", "found no rows"),
        ("# color images\n1.0 rgb/1.jpg\n", r":2: .*found '1.0 rgb/1.jpg'"),
        (f"1 {POSE}\n\n2 0 0 0\n", r":3: .*found '2 0 0 0'"),
        (f"1 {POSE}\n2 0 0 zero 0 0 0 1\n", r":2: .*zero"),
        (f"1 {POSE}\n2 nan nan nan 0 0 0 1\n", r":2: wanted finite"),
        (f"1 {POSE}\ninf {POSE}\n", r":2: wanted finite"),
        (f"# h\n2 {POSE}\n1 {POSE}\n", r":3: wanted increasing times, found 1.0+ after 2.0+"),
        (f"1 {POSE}\n1 {POSE}\n", r":2: wanted increasing times"),
        (f"1 {POSE}\n2 0 0 0 0 0 0 0\n", r":2: wanted a unit quaternion, found one of norm 0"),
        ("1 0 0 0 0 0 1 1\n", r":1: wanted a unit quaternion, found one of norm 1.414"),
        ("1 0 0 0 0 1 0 0 0 0 2 0\n", r":1: wanted a rotation matrix"),
        ("-1 0 0 0 0 1 0 0 0 0 1 0\n", r":1: wanted a rotation matrix"),
    ],
)
def test_what_is_no_trajectory_is_named_in_one_line(tmp_path: Path, text: str, wanted: str) -> None:
    path = write(tmp_path / "bad.txt", text)
    with pytest.raises(ValueError, match=wanted) as caught:
        read_trajectory(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_binary_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(b"\xff\xd8\xff\xe0 \x80\n")
    with pytest.raises(ValueError, match="binary"):
        read_trajectory(tmp_path / "image.jpg")
    with pytest.raises(FileNotFoundError, match=r"gone\.txt"):
        read_trajectory(tmp_path / "gone.txt")
    with pytest.raises(ValueError, match="'bag'"):
        read_trajectory(write(tmp_path / "t.txt", f"1 {POSE}\n"), format="bag")


def test_trajectory_refuses_wrong_shapes_types_and_numbers() -> None:
    good = random_trajectory(4)
    with pytest.raises(ValueError, match=r"\(3,\) and \(4, 7\)"):
        Trajectory(good.times[:3], good.poses)
    with pytest.raises(ValueError, match="float64"):
        Trajectory(good.times, good.poses.astype(np.float32))
    broken = good.poses.copy()
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="row 2"):
        Trajectory(good.times, broken)
    with pytest.raises(ValueError, match="row 0 has norm 2"):
        Trajectory(good.times, good.poses * 2)


def test_association_takes_the_nearest_within_max_dt() -> None:
    truth = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    estimate = np.array([0.011, 0.19, 0.26, 5.0])
    np.testing.assert_array_equal(associate(estimate, truth, 0.02), [[0, 0], [1, 2]])
    np.testing.assert_array_equal(associate(truth, estimate, 0.02), [[0, 0], [2, 1]])
    np.testing.assert_array_equal(associate(estimate, truth, 0.041), [[0, 0], [1, 2], [2, 3]])


def test_association_uses_a_stamp_once_and_the_nearer_keeps_it() -> None:
    pairs = associate(np.array([0.0, 0.012, 1.0]), np.array([0.01, 1.0, 2.0, 3.0]), 0.05)
    np.testing.assert_array_equal(pairs, [[1, 0], [2, 1]])


@pytest.mark.parametrize("count", [0, 1])
def test_association_of_none_or_one(count: int) -> None:
    few = np.zeros(count)
    assert len(associate(few, np.array([0.0]), 0.1)) == count
    assert len(associate(few, np.array([5.0]), 0.1)) == 0
    assert len(associate(few, np.zeros(0), 0.1)) == 0


def test_association_equals_brute_force() -> None:
    generator = np.random.default_rng(0)
    short = np.sort(generator.uniform(0, 10, 60))
    long = np.sort(generator.uniform(0, 10, 300))
    nearest = np.abs(long[None] - short[:, None]).argmin(axis=1)
    expected = {}
    for row, other in enumerate(nearest):
        difference = abs(long[other] - short[row])
        if difference <= 0.02 and (
            other not in expected or difference < abs(long[other] - short[expected[other]])
        ):
            expected[other] = row
    pairs = [(row, other) for other, row in expected.items()]
    np.testing.assert_array_equal(associate(short, long, 0.02), sorted(pairs))


DATA = os.environ.get("SLAM_DATA")


@pytest.mark.skipif(DATA is None, reason="SLAM_DATA does not name the folder with the data sets")
@pytest.mark.parametrize(
    ("name", "format", "count"),
    [
        ("rgbd_dataset_freiburg1_xyz/groundtruth.txt", "tum", 3000),
        ("icl_office_kt0/groundtruth.txt", "tum", 1507),
        ("euroc_V101_stereo_keyframes/mav0/state_groundtruth_estimate0/data.csv", "euroc", 2895),
    ],
)
def test_published_ground_truth_is_read(name: str, format: str, count: int) -> None:
    path = Path(str(DATA)) / name
    trajectory = read_trajectory(path)
    assert detect_format(path) == format
    assert len(trajectory) == count
    if format == "euroc":
        same = read_trajectory(path.parents[2] / "groundtruth_body_tum.txt")
        np.testing.assert_allclose(trajectory.times, same.times, atol=1e-6, rtol=0)
        assert np.abs(np.sum(trajectory.quaternions * same.quaternions, axis=1)).min() > 0.999
