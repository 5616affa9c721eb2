"""Every format, built small: what it is recognised by, its stamps, camera, poses and depth."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from slam.camera import Camera, published_calibration, save_calibration
from slam.sources import FORMATS, open_source
from slam.sources.ground_truth import matrices_from_poses

FULL, SMALL = (640, 480), (64, 48)
QUATERNION = Rotation.from_rotvec([0.1, -0.2, 0.3]).as_quat()  # x y z w
POSE = np.array([1, 2, 3, *QUATERNION])


def write_image(path: Path, size: tuple[int, int], value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((size[1], size[0], 3), (value, value // 2, 20), np.uint8)  # BGR
    assert cv2.imwrite(str(path), image)
    return path


def write_depth(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    depth = np.full((SMALL[1], SMALL[0]), value, np.uint16)
    depth[0, 0], depth[0, 1] = 0, 65535
    assert cv2.imwrite(str(path), depth)


def write_text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]))
    return path


def tum(root: Path, size: tuple[int, int] = FULL) -> Path:
    root = root / "some folder (1)"
    for i in range(3):
        write_image(root / f"rgb/{i}.png", size, 10 * i)
        write_depth(root / f"depth/{i}.png", 5000 + 500 * i)
    write_text(root / "rgb.txt", "# color", *(f"{100.0 + i / 10} rgb/{i}.png" for i in range(3)))
    stamps = [100.015, 100.13, 100.2]  # 15 ms, 30 ms, 0 ms from the images
    write_text(root / "depth.txt", *(f"{t} depth/{i}.png" for i, t in enumerate(stamps)))
    header = "# file: 'rgbd_dataset_freiburg2_desk.bag'"
    write_text(root / "groundtruth.txt", header, "100.05 " + " ".join(map(str, POSE)))
    return root


def eth3d(root: Path) -> Path:
    root = root / "cables_1"
    write_image(root / "rgb/a.png", SMALL)
    write_text(root / "rgb.txt", "5.25 rgb/a.png")
    write_text(root / "calibration.txt", "70.5 71.5 31.25 23.75")
    write_text(root / "groundtruth.txt", "5.25 " + " ".join(map(str, POSE)))
    return root


def icl(root: Path) -> Path:
    root = root / "kt0"
    for i in (1, 2):
        write_image(root / f"rgb/{i}.png", FULL)
        write_depth(root / f"depth/{i}.png", 5000)
    write_text(root / "rgb.txt", "1 rgb/1.png", "2 rgb/2.png")
    write_text(root / "depth.txt", "2 depth/2.png")
    write_text(root / "groundtruth.txt", "2 " + " ".join(map(str, POSE)))
    return root


def icl_as_downloaded(root: Path) -> Path:
    root = icl(root)
    (root / "rgb.txt").unlink()
    (root / "depth.txt").unlink()
    (root / "groundtruth.txt").rename(root / "livingRoom0.gt.freiburg")
    write_text(root / "associations.txt", *(f"{i} depth/{i}.png {i} rgb/{i}.png" for i in (1, 2)))
    return root


SENSOR = """%YAML:1.0
# General sensor definitions.
sensor_type: camera
T_BS:
  cols: 4
  rows: 4
  data: [0.0, -1.0, 0.0, 0.5,
         1.0, 0.0, 0.0, 0.25,
         0.0, 0.0, 1.0, 0.125,
         0.0, 0.0, 0.0, 1.0]
rate_hz: 20
resolution: [64, 48]
camera_model: pinhole
intrinsics: [60.0, 61.0, 31.0, 24.0] #fu, fv, cu, cv
distortion_model: radial-tangential
distortion_coefficients: [-0.2, 0.05, 0.001, 0.002]
"""


def euroc(root: Path) -> Path:
    root = root / "V1_01_easy"
    for camera in ("cam0", "cam1"):
        write_text(root / f"mav0/{camera}/sensor.yaml", SENSOR)
        stamps = [1403715273262142976, 1403715273312143104]
        write_text(
            root / f"mav0/{camera}/data.csv",
            "#timestamp [ns],filename",
            *(f"{t},{t}.png" for t in stamps),
        )
        for stamp in stamps:
            write_image(root / f"mav0/{camera}/data/{stamp}.png", SMALL)
    x, y, z, w = QUATERNION
    write_text(
        root / "mav0/state_groundtruth_estimate0/data.csv",
        "#timestamp",
        f"1403715273262142976,1,2,3,{w},{x},{y},{z},0,0,0,0,0,0,0,0,0",
    )
    return root


def seven_scenes(root: Path) -> Path:
    root = root / "chess"
    matrix = matrices_from_poses(POSE[None])[0]
    for sequence in ("seq-01", "seq-02"):
        for i in range(2):
            stem = root / sequence / f"frame-{i:06d}"
            write_image(Path(f"{stem}.color.png"), FULL)
            write_depth(Path(f"{stem}.depth.png"), 1500)
            pose = matrix if i else np.full((4, 4), np.nan)
            write_text(Path(f"{stem}.pose.txt"), *(" ".join(map(str, row)) for row in pose))
    return root


def kitti(root: Path) -> Path:
    path = root / "dataset/sequences/07"
    for i in range(2):
        write_image(path / f"image_2/{i:06d}.png", SMALL)
        write_image(path / f"image_0/{i:06d}.png", SMALL)
    write_text(path / "times.txt", "0.000000e+00", "1.037875e-01")
    write_text(
        path / "calib.txt",
        "P0: 70 0 31 0 0 70 24 0 0 0 1 0",
        "P2: 70 0 31 7.5 0 70 24 0.5 0 0 1 0.01",
    )
    matrix = matrices_from_poses(POSE[None])[0, :3].reshape(-1)
    write_text(root / "dataset/poses/07.txt", *[" ".join(map(str, matrix))] * 2)
    return path


def folder(root: Path) -> Path:
    for name in ("img_10.jpg", "img_9.JPG", "img_1.png"):
        write_image(root / "shots" / name, SMALL)
    write_text(root / "shots" / "notes.txt", "nothing")
    return root / "shots"


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "tum": tum,
    "eth3d": eth3d,
    "icl": icl,
    "euroc": euroc,
    "7scenes": seven_scenes,
    "kitti": kitti,
    "folder": folder,
}


def test_every_format_is_built_here() -> None:
    assert {known.name for known in FORMATS} == set(BUILDERS)


@pytest.mark.parametrize("name", BUILDERS)
def test_format_is_found_by_content_whatever_the_folder_is_called(
    tmp_path: Path, name: str
) -> None:
    path = BUILDERS[name](tmp_path)
    renamed = path.rename(path.with_name("x y"))
    source = open_source(renamed)
    assert source.format == name
    images = list(source.images())
    assert len(images) == len(source) == len(source.times)
    assert images[0].rgb.shape == (source.camera.height, source.camera.width, 3)
    assert images[0].rgb[10, 10].tolist()[0] == 20  # RGB: blue was written last
    assert [image.time for image in images] == source.times.tolist()
    assert " " not in source.name and source.camera.model == "pinhole"


@pytest.mark.parametrize("name", BUILDERS)
def test_calibration_file_beside_the_images_wins_in_every_format(tmp_path: Path, name: str) -> None:
    path = BUILDERS[name](tmp_path)
    beside = {"euroc": path / "mav0/cam0", "7scenes": path / "seq-01"}.get(name, path)
    size = SMALL if name in ("eth3d", "euroc", "kitti", "folder") else FULL
    save_calibration(beside / "calibration.yaml", Camera("pinhole", *size, (123, 124, 20, 30)))
    source = open_source(path)
    assert source.camera.intrinsics == (123, 124, 20, 30)
    assert "calibration.yaml" in source.calibration_source
    uncalibrated = open_source(path, calibration="none", fov=90)
    assert not uncalibrated.calibrated and uncalibrated.raw_camera is None
    assert uncalibrated.camera == Camera.from_fov(*size, 90)
    assert uncalibrated.calibration_source == "uncalibrated: 90 degree field of view assumed"


def test_tum_takes_its_camera_from_the_bag_name_and_depth_within_20_ms(tmp_path: Path) -> None:
    source = open_source(tum(tmp_path))
    assert source.raw_camera == published_calibration("tum-fr2")
    assert source.calibrated and source.camera != source.raw_camera
    assert source.calibration_source == "TUM fr2, from the header of groundtruth.txt"
    np.testing.assert_array_equal(source.times, [100, 100.1, 100.2])
    np.testing.assert_array_equal(source.seconds, source.times)
    assert source.ground_truth is not None
    assert source.ground_truth.times.tolist() == [100.05]
    np.testing.assert_allclose(source.ground_truth.poses, [POSE])
    assert {i: file.name for i, file in source.depth_files.items()} == {0: "0.png", 2: "2.png"}
    assert source.read_depth(1) is None
    depth = source.read_depth(2)
    assert depth is not None and depth.dtype == np.float32
    assert depth[5, 5] == np.float32(1.2) and depth[0, 0] == 0


def test_tum_without_bag_name_is_uncalibrated_and_says_so(tmp_path: Path) -> None:
    path = tum(tmp_path, SMALL)
    (path / "groundtruth.txt").unlink()
    source = open_source(path)
    assert source.ground_truth is None and not source.calibrated
    assert source.calibration_source.startswith("uncalibrated: 60 degree")


def test_missing_depth_maps_are_left_out(tmp_path: Path) -> None:
    path = tum(tmp_path)
    (path / "depth/0.png").unlink()
    assert list(open_source(path).depth_files) == [2]


def test_eth3d_takes_its_camera_from_calibration_txt(tmp_path: Path) -> None:
    source = open_source(eth3d(tmp_path))
    assert source.camera == Camera("pinhole", *SMALL, (70.5, 71.5, 31.25, 23.75))
    write_text(source.path / "calibration.txt", "70.5 71.5 31.25")
    with pytest.raises(ValueError, match=r"calibration.txt:1: wanted 4 numbers"):
        open_source(source.path)


@pytest.mark.parametrize("build", [icl, icl_as_downloaded])
def test_icl_is_made_right_handed_and_converted_back(
    tmp_path: Path, build: Callable[[Path], Path]
) -> None:
    source = open_source(build(tmp_path))
    assert source.format == "icl" and source.mirrored
    assert source.camera == published_calibration("icl")
    np.testing.assert_array_equal(source.times, [1, 2])
    np.testing.assert_allclose(source.seconds, [1 / 30, 2 / 30])
    assert source.ground_truth is not None
    S = np.diag([1.0, -1, 1, 1])
    T_written = matrices_from_poses(POSE[None])[0]
    np.testing.assert_allclose(
        matrices_from_poses(source.ground_truth.poses)[0], S @ T_written @ S, atol=1e-12
    )
    back = source.to_source_convention(source.ground_truth)
    np.testing.assert_allclose(matrices_from_poses(back.poses)[0], T_written, atol=1e-12)
    again = source.from_source_convention(back)
    np.testing.assert_allclose(again.poses, source.ground_truth.poses)
    depth = source.read_depth(1)
    assert depth is not None and depth[5, 5] == 1
    assert list(source.depth_files) == ([1] if build is icl else [0, 1])


def test_other_formats_are_not_mirrored(tmp_path: Path) -> None:
    source = open_source(tum(tmp_path))
    assert source.ground_truth is not None
    assert source.to_source_convention(source.ground_truth) is source.ground_truth
    assert open_source(icl(tmp_path), format="tum").mirrored is False


def test_icl_with_two_trajectories_asks_for_one(tmp_path: Path) -> None:
    path = icl_as_downloaded(tmp_path)
    write_text(path / "livingRoom1.gt.freiburg", "1 " + " ".join(map(str, POSE)))
    with pytest.raises(ValueError, match=r"livingRoom0.gt.freiburg, livingRoom1.gt.freiburg"):
        open_source(path)


def test_nanosecond_stamps_in_tum_layout_are_not_icl(tmp_path: Path) -> None:
    path = eth3d(tmp_path)
    (path / "calibration.txt").unlink()
    write_text(path / "rgb.txt", "1403715273262142976 rgb/a.png")
    assert open_source(path).format == "tum"


def test_euroc_moves_the_ground_truth_to_the_camera(tmp_path: Path) -> None:
    path = euroc(tmp_path)
    source = open_source(path)
    distortion = (-0.2, 0.05, 0.001, 0.002, 0)
    assert source.raw_camera == Camera("radtan", *SMALL, (60, 61, 31, 24), distortion)
    assert source.times.tolist() == [1403715273.262142976, 1403715273.312143104]
    assert source.ground_truth is not None
    T_BC = np.eye(4)
    T_BC[:3] = [[0, -1, 0, 0.5], [1, 0, 0, 0.25], [0, 0, 1, 0.125]]
    T_WC = matrices_from_poses(POSE[None])[0] @ T_BC
    np.testing.assert_allclose(matrices_from_poses(source.ground_truth.poses)[0], T_WC, atol=1e-12)
    assert source.name == open_source(path / "mav0").name == "V1_01_easy"
    assert open_source(path / "mav0/cam1").name == "V1_01_easy-cam1"


def test_euroc_without_sensor_yaml_needs_it_only_for_ground_truth(tmp_path: Path) -> None:
    path = euroc(tmp_path)
    (path / "mav0/cam0/sensor.yaml").unlink()
    with pytest.raises(ValueError, match="wanted T_BS"):
        open_source(path)
    (path / "mav0/state_groundtruth_estimate0/data.csv").unlink()
    assert not open_source(path).calibrated
    write_text(path / "mav0/cam0/sensor.yaml", SENSOR.replace("radial-tangential", "omni"))
    with pytest.raises(ValueError, match=r"sensor.yaml: no calibration .*omni"):
        open_source(path)


def test_7scenes_opens_the_first_sequence_of_a_scene_and_names_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = seven_scenes(tmp_path)
    with caplog.at_level(logging.INFO):
        source = open_source(scene)
    assert source.name == "chess-seq-01" and "seq-02" in caplog.text
    assert open_source(scene / "seq-02").name == "chess-seq-02"
    assert source.camera.intrinsics == (585, 585, 320, 240)
    np.testing.assert_allclose(source.times, [0, 1 / 30])
    assert source.ground_truth is not None and len(source.ground_truth.times) == 1  # one is NaN
    np.testing.assert_allclose(source.ground_truth.poses, [POSE], atol=1e-12)
    depth = source.read_depth(0)
    assert depth is not None and depth[5, 5] == 1.5
    assert depth[0, 0] == depth[0, 1] == 0


def test_kitti_moves_the_ground_truth_to_the_colour_camera(tmp_path: Path) -> None:
    source = open_source(kitti(tmp_path))
    assert source.camera == Camera("pinhole", *SMALL, (70, 70, 31, 24))
    assert source.times.tolist() == [0, 0.1037875]
    assert source.ground_truth is not None
    P = np.array([[70, 0, 31, 7.5], [0, 70, 24, 0.5], [0, 0, 1, 0.01]])
    T_W0, T_WC = (matrices_from_poses(p)[0] for p in (POSE[None], source.ground_truth.poses))
    X_W = np.array([1.5, 2.5, 9.0, 1])
    by_projection = P @ np.linalg.inv(T_W0) @ X_W
    by_pose = P[:, :3] @ (np.linalg.inv(T_WC) @ X_W)[:3]
    np.testing.assert_allclose(by_pose, by_projection, atol=1e-9)


def test_kitti_wants_a_time_for_each_image(tmp_path: Path) -> None:
    path = kitti(tmp_path)
    write_text(path / "times.txt", "0")
    with pytest.raises(ValueError, match="got 1 for 2"):
        open_source(path)


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path))
    names = [Path(source._frames.label(i)).name for i in range(3)]
    assert names == ["img_1.png", "img_9.JPG", "img_10.jpg"]
    np.testing.assert_allclose(source.times, [0, 1 / 30, 2 / 30])


@pytest.mark.parametrize(("codec", "suffix"), [("mp4v", "mp4"), ("MJPG", "avi")])
def test_video_frames_come_with_their_stamps(tmp_path: Path, codec: str, suffix: str) -> None:
    path = tmp_path / f"clip one.{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, SMALL)
    for i in range(10):
        writer.write(np.full((SMALL[1], SMALL[0], 3), (20, 10, 20 * i), np.uint8))
    writer.release()
    source = open_source(path, start=2, end=9, stride=3)
    assert (source.format, source.name, source.calibrated) == ("video", "clip-one", False)
    np.testing.assert_allclose(source.times, [0.08, 0.2, 0.32])
    images = list(source.images())
    assert [image.index for image in images] == [2, 5, 8]
    red = [int(image.rgb[20, 20, 0]) for image in images]
    np.testing.assert_allclose(red, [40, 100, 160], atol=6)
    assert len(open_source(path)) == 10
    assert len(list(source.images())) == 3  # a second time


def test_video_with_equal_stamps_counts_by_its_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from slam.sources import video

    times = video._times(tmp_path, np.array([0, 0, 0.04]), 25)
    np.testing.assert_allclose(times, [0, 0.04, 0.08])
    assert "do not increase, 25 images/s assumed" in caplog.text
    np.testing.assert_allclose(video._times(tmp_path, np.zeros(2), float("nan")), [0, 1 / 30])
