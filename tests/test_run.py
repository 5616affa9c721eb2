"""The main job through its command: outputs, accuracy, repeatability, real time, bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import CommandResult, expect_one_line
from sequences import OUTPUTS, SAMPLE, cut_sample

from slam.evaluation import evaluate_files
from slam.export import read_ply
from slam.frame import Keyframe
from slam.trajectory import read_trajectory

Command = Callable[..., CommandResult]


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole sample, run once, as a user would."""
    from slam.cli import main

    folder = tmp_path_factory.mktemp("sample") / "out"
    assert main(["run", str(SAMPLE), "--out", str(folder), "-q"]) == 0
    return folder


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_sample_writes_every_output(sample_run: Path) -> None:
    assert {p.name for p in sample_run.iterdir()} == OUTPUTS


def test_sample_is_accurate_and_complete(sample_run: Path) -> None:
    report = report_of(sample_run)
    assert report["posed"] == report["frames"] == 300
    assert report["ate"]["sim3_rmse"] < 0.01 * report["ate"]["path_length"]
    assert report["ate"]["rotation_rmse_deg"] < 1.0


def test_report_agrees_with_eval_on_the_written_files(sample_run: Path) -> None:
    result = evaluate_files(
        sample_run / "trajectory.txt",
        SAMPLE / "groundtruth.txt",
        frames=sample_run / "report.json",
    )
    report = report_of(sample_run)
    assert result.ate_sim3.rmse == pytest.approx(report["ate"]["sim3_rmse"], rel=1e-4)
    assert result.completeness is not None and result.completeness.posed == report["posed"]


def test_every_frame_has_a_pose_in_the_trajectory(sample_run: Path) -> None:
    assert len(read_trajectory(sample_run / "trajectory.txt")) == 300


def test_map_lies_on_the_room(sample_run: Path) -> None:
    """After the trajectory's alignment, points are inside the 6 x 5 x 3 m room, not beyond it."""
    result = evaluate_files(sample_run / "trajectory.txt", SAMPLE / "groundtruth.txt")
    from slam.evaluation import transform_points

    cloud = read_ply(sample_run / "map.ply")
    points = transform_points(result.T_true_est, cloud.points)
    inside = ((points > -0.1) & (points < np.array([6.1, 5.1, 3.1]))).all(axis=1)
    assert len(points) > 20000
    assert inside.mean() > 0.98


def test_depth_is_right_on_nearly_all_pixels_and_confidence_ranks_its_errors(
    sample_run: Path, tmp_path: Path, run_cli: Command
) -> None:
    plot = tmp_path / "depth.png"
    result = run_cli("eval-depth", sample_run, SAMPLE, "--json", "--plot", plot)
    values = json.loads(result.out)
    assert values["errors"]["median_relative"] < 0.004
    assert values["errors"]["coverage"] > 0.8  # of the two keyframes with a depth map
    assert values["errors"]["within_10_percent"] > 0.95
    median = values["curve"]["median"]
    half = median[values["curve"]["kept"].index(0.5)]
    assert half <= 0.65 * median[0]
    assert cv2.imread(str(plot)).shape == (780, 1200, 3)
    table = run_cli("eval-depth", sample_run, SAMPLE).out.splitlines()[-10:]
    medians = [float(row.split()[3]) for row in table]
    assert medians == sorted(medians, reverse=True)
    assert medians[0] == pytest.approx(median[0], abs=1e-4)


def test_depth_of_a_run_on_another_source_is_refused(
    sample_run: Path, tmp_path: Path, run_cli: Command
) -> None:
    """As long as the sample, and its times are thirtieths of a second too."""
    other = cut_sample(tmp_path / "other", range(300))
    expect_one_line(run_cli("eval-depth", sample_run, other), str(other), str(sample_run))


def test_the_maps_picture_shows_the_room_and_is_small(sample_run: Path) -> None:
    image = cv2.imread(str(sample_run / "map.jpg"))
    assert image.shape == (720, 1280, 3)
    assert (sample_run / "map.jpg").stat().st_size < 400_000
    empty = (abs(image.astype(int) - [28, 22, 18]) < 12).all(axis=-1)  # the background, BGR
    assert empty.mean() < 0.4


@pytest.mark.slow
def test_without_bundle_adjustment_the_sample_drifts(
    sample_run: Path, tmp_path: Path, run_cli: Command
) -> None:
    """The sample is hard: tracking alone is at least 3 times worse."""
    out = tmp_path / "vo"
    off = ["bundle_adjustment.iterations=0", "bundle_adjustment.global_rounds=0"]
    sets = [word for key in off for word in ("--set", key)]
    assert run_cli("run", SAMPLE, "--out", out, "-q", *sets).code == 0
    drifted, good = report_of(out)["ate"], report_of(sample_run)["ate"]
    assert drifted["sim3_rmse"] > 3 * good["sim3_rmse"]


def test_runs_are_bit_identical_for_one_and_two_threads(tmp_path: Path, run_cli: Command) -> None:
    for threads in (1, 2):
        out = tmp_path / str(threads)
        arguments = ("--end", "90", "--threads", threads, "--out", out, "-q")
        assert run_cli("run", SAMPLE, *arguments).code == 0
    for name in ("trajectory.txt", "trajectory_causal.txt", "keyframes.txt", "map.ply"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


@pytest.mark.slow
def test_config_is_the_same_for_all_sources_but_for_the_source(
    sample_run: Path, tmp_path: Path, run_cli: Command
) -> None:
    source = cut_sample(tmp_path / "cut", range(40))
    run_cli("run", source, "--out", tmp_path / "out", "-q")

    def body(folder: Path) -> list[str]:
        text = (folder / "config.yaml").read_text()
        return [line for line in text.splitlines() if "path:" not in line]

    assert body(sample_run) == body(tmp_path / "out")


def test_real_time_poses_frames_as_they_come(tmp_path: Path, run_cli: Command) -> None:
    out = tmp_path / "live"
    result = run_cli("run", SAMPLE, "--realtime", "--end", "200", "--out", out, "-q")
    assert result.code == 0
    report = report_of(out)
    assert re.search(rf"^{report['dropped']} frames dropped; \d+ ms \(p95", result.out, re.M)
    assert report["posed"] + report["dropped"] + len(report["damaged"]) == 200
    assert all(f["posed"] >= f["captured"] for f in report["latency"])
    published = read_trajectory(out / "trajectory_causal.txt")
    assert published.times[0] < 1000 + 150 / 30  # the start does not stay on trial
    assert report["ate"]["sim3_rmse"] < 0.03 * report["ate"]["path_length"]


@pytest.mark.slow
def test_uncalibrated_run_finds_the_focal_length(tmp_path: Path, run_cli: Command) -> None:
    out = tmp_path / "uncalibrated"
    arguments = ("--calib", "none", "--end", "150", "--out", out, "-q")
    assert run_cli("run", SAMPLE, *arguments).code == 0
    report = report_of(out)
    assert report["focal"]["pixels"] == pytest.approx(525, rel=0.1)
    assert report["focal"]["sigma_pixels"] > 0


@pytest.mark.parametrize("after", [4.0, pytest.param(7.1, marks=pytest.mark.slow)])
def test_interrupt_saves_and_exits_130(tmp_path: Path, after: float) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "slam", "run", str(SAMPLE), "--realtime", "-v", "--out", str(out)],
        stderr=subprocess.PIPE,
        bufsize=0,  # what is not read here is left to `communicate`
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(p) for p in sys.path if p])},
    )
    assert process.stderr is not None
    assert any(b"300 frames" in line for line in process.stderr), "it ended before it began"
    time.sleep(after - 3)  # any moment will do: that is what is tested
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    assert {p.name for p in out.iterdir()} == OUTPUTS


# --- bad input ------------------------------------------------------------------------------------


def test_empty_folder(tmp_path: Path, run_cli: Command) -> None:
    (tmp_path / "empty").mkdir()
    expect_one_line(run_cli("run", tmp_path / "empty", "--out", tmp_path / "o"), "empty")


def test_missing_source(tmp_path: Path, run_cli: Command) -> None:
    expect_one_line(run_cli("run", tmp_path / "nowhere", "--out", tmp_path / "o"), "nowhere")


def test_missing_image(tmp_path: Path, run_cli: Command) -> None:
    source = cut_sample(tmp_path / "cut", range(10))
    (source / "rgb" / "0004.jpg").unlink()
    expect_one_line(run_cli("run", source, "--out", tmp_path / "o"), "0004.jpg")


def test_truncated_image_is_skipped_and_counted(tmp_path: Path, run_cli: Command) -> None:
    source = cut_sample(tmp_path / "cut", range(60))
    image = source / "rgb" / "0030.jpg"
    data = image.read_bytes()
    image.unlink()
    image.write_bytes(data[: len(data) // 2])
    assert run_cli("run", source, "--out", tmp_path / "o").code == 0
    report = report_of(tmp_path / "o")
    assert len(report["damaged"]) == 1 and "0030.jpg" in report["damaged"][0]
    assert report["posed"] == 59


def test_image_size_changing_saves_what_was_computed(tmp_path: Path, run_cli: Command) -> None:
    def shrink(place: int, image: np.ndarray) -> np.ndarray:
        return image[:400] if place == 50 else image

    source = cut_sample(tmp_path / "cut", range(60), change=shrink)
    expect_one_line(run_cli("run", source, "--out", tmp_path / "o"), "0050.jpg", "400")
    assert len(read_trajectory(tmp_path / "o" / "trajectory.txt")) >= 45


def test_calibration_of_another_size(tmp_path: Path, run_cli: Command) -> None:
    source = cut_sample(tmp_path / "cut", range(10))
    text = (source / "calibration.yaml").read_text().replace("640", "752")
    (source / "calibration.yaml").write_text(text)
    expect_one_line(run_cli("run", source, "--out", tmp_path / "o"), "752", "640")


def test_images_too_small_for_flow(tmp_path: Path, run_cli: Command) -> None:
    (tmp_path / "tiny").mkdir()
    for n in range(3):
        cv2.imwrite(str(tmp_path / "tiny" / f"{n}.png"), np.zeros((6, 8, 3), np.uint8))
    expect_one_line(run_cli("run", tmp_path / "tiny", "--out", tmp_path / "o"), "48", "8 x 6")


def test_a_short_uncalibrated_run_ends_with_a_summary(tmp_path: Path, run_cli: Command) -> None:
    source = cut_sample(tmp_path / "cut", range(20))
    result = run_cli("run", source, "--calib", "none", "--out", tmp_path / "o")
    assert result.code == 0 and "focal length" in result.out


def test_a_failing_backend_saves_what_there_is(
    tmp_path: Path, run_cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slam.backend import Backend

    whole = Backend.step

    def step(self: Backend, keyframes: list[Keyframe], number: int) -> None:
        if number == 4:
            raise ValueError("the solver broke")
        whole(self, keyframes, number)

    monkeypatch.setattr(Backend, "step", step)
    source = cut_sample(tmp_path / "cut", range(60))
    expect_one_line(run_cli("run", source, "--out", tmp_path / "o"), "the solver broke")
    assert len(read_trajectory(tmp_path / "o" / "trajectory.txt")) > 10


@pytest.mark.parametrize("focal", [".nan", "-5", "1e9"])
def test_absurd_intrinsics(tmp_path: Path, run_cli: Command, focal: str) -> None:
    source = cut_sample(tmp_path / "cut", range(10))
    calibration = tmp_path / "bad.yaml"
    calibration.write_text(
        f"model: pinhole\nwidth: 640\nheight: 480\nintrinsics: [{focal}, 525, 320, 240]\n"
        "distortion: []\n"
    )
    result = run_cli("run", source, "--calib", calibration, "--out", tmp_path / "o")
    expect_one_line(result, "bad.yaml")


@pytest.mark.parametrize("second", [100.0, 99.0])
def test_time_equal_or_going_back(tmp_path: Path, run_cli: Command, second: float) -> None:
    source = cut_sample(tmp_path / "cut", range(3), times=[100.0, second, 101.0])
    expect_one_line(run_cli("run", source, "--out", tmp_path / "o"), "100", f"{second:g}")


def test_a_text_file_is_no_video(tmp_path: Path, run_cli: Command) -> None:
    result = run_cli("run", SAMPLE / "groundtruth.txt", "--out", tmp_path / "o")
    expect_one_line(result, "groundtruth.txt", "wanted a video or the folder", "got a text file")


def test_options_of_a_viewer_that_is_not_wanted_are_refused(
    tmp_path: Path, run_cli: Command
) -> None:
    for option in (("--viewer-stay",), ("--web-port", "8099")):
        result = run_cli("run", SAMPLE, "--end", "5", *option, "--out", tmp_path / "o")
        expect_one_line(result, "want --viewer web")
    expect_one_line(run_cli("view", tmp_path / "nowhere"), "nowhere", "a map or a .ply")
    scratch = ("--memory-budget", "4GB", "--set", f"run.scratch={tmp_path / 'nowhere'}")
    result = run_cli("run", SAMPLE, "--end", "5", *scratch, "--out", tmp_path / "o")
    expect_one_line(result, "run.scratch: wanted a folder", "nowhere")


@pytest.mark.parametrize("frames", [[0, 1], [5] * 40], ids=["two frames", "a still camera"])
def test_no_motion_is_said_in_one_line(tmp_path: Path, run_cli: Command, frames: list[int]) -> None:
    source = cut_sample(tmp_path / "cut", frames)
    expect_one_line(run_cli("run", source, "--out", tmp_path / "o"), "no map")
    assert report_of(tmp_path / "o")["keyframes"] == 0


def test_pure_rotation_makes_no_map(tmp_path: Path, run_cli: Command) -> None:
    """Views of one image under rotations about the camera's centre: flow without parallax."""
    K = np.array([[525.0, 0, 319.5], [0, 525, 239.5], [0, 0, 1]])

    def turn(place: int, image: np.ndarray) -> np.ndarray:
        R, _ = cv2.Rodrigues(np.array([0.02 * np.sin(place / 5), 0.006 * (place - 20), 0.0]))
        return cv2.warpPerspective(image, K @ R @ np.linalg.inv(K), (640, 480), borderMode=4)

    source = cut_sample(tmp_path / "cut", [150] * 40, change=turn)
    expect_one_line(run_cli("run", source, "--out", tmp_path / "o"), "no map")


@pytest.mark.parametrize(
    "level", [0, pytest.param(255, marks=pytest.mark.slow)], ids=["black", "white"]
)
def test_black_or_white_stretch_is_lost_then_recovered(
    tmp_path: Path, run_cli: Command, level: int
) -> None:
    def blank(place: int, image: np.ndarray) -> np.ndarray:
        return np.full_like(image, level) if 70 <= place < 80 else image

    source = cut_sample(tmp_path / "cut", range(120), change=blank)
    small = ("--set", "flow.long_side=200")
    assert run_cli("run", source, "--out", tmp_path / "o", *small).code == 0
    report = report_of(tmp_path / "o")
    states = [f["state"] for f in report["frame_list"]]
    assert set(states[70:80]) == {"lost"}
    assert [span["frames"] for span in report["lost_spans"]] == [10]
    assert set(states[85:]) <= {"tracked", "relocalised"}
    assert report["ate"]["sim3_rmse"] < 0.02 * report["ate"]["path_length"]


def test_output_path_that_is_a_file(tmp_path: Path, run_cli: Command) -> None:
    target = tmp_path / "file"
    target.write_text("x")
    expect_one_line(run_cli("run", SAMPLE, "--out", target), "file")
    assert target.read_text() == "x"


def test_unwritable_output_folder(tmp_path: Path, run_cli: Command) -> None:
    expect_one_line(run_cli("run", SAMPLE, "--out", "/proc/nowhere/out"), "/proc")


def test_unknown_config_key_names_the_nearest(tmp_path: Path, run_cli: Command) -> None:
    result = run_cli("run", SAMPLE, "--set", "tracking.hubr=1", "--out", tmp_path / "o")
    expect_one_line(result, "hubr", "huber")


def test_file_that_is_no_video(tmp_path: Path, run_cli: Command) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("not a video")
    expect_one_line(run_cli("run", path, "--out", tmp_path / "o"), "notes.mp4")


def test_text_that_is_no_trajectory(tmp_path: Path, run_cli: Command) -> None:
    path = tmp_path / "poem.txt"
    path.write_text("roses are red\n")
    expect_one_line(run_cli("eval", path, SAMPLE / "groundtruth.txt"), "poem.txt")
