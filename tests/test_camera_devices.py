"""What is asked of a camera, and what it says of itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import CommandResult, expect_one_line
from scripted_camera import CALIBRATION
from sequences import SAMPLE

from slam.camera import Camera
from slam.live_settings import LiveSettings
from slam.sources.camera import CameraSource

Command = Callable[..., CommandResult]


class Driver:
    """Stands in for cv2.VideoCapture of a camera with a will of its own."""

    def __init__(self, *_: object) -> None:
        self.values = {cv2.CAP_PROP_FPS: 15.0, cv2.CAP_PROP_AUTO_EXPOSURE: 3.0}

    def isOpened(self) -> bool:  # OpenCV's name
        return True

    def get(self, name: int) -> float:
        return self.values.get(name, -1.0)

    def set(self, name: int, value: float) -> bool:
        taken = name in (cv2.CAP_PROP_AUTO_EXPOSURE, cv2.CAP_PROP_EXPOSURE)
        if taken:
            self.values[name] = value
        return taken

    def grab(self) -> bool:
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((48, 64, 3), np.uint8)

    def release(self) -> None:
        """Nothing is held."""


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Camera 3 is there, and is a Driver."""
    monkeypatch.setattr(cv2, "VideoCapture", Driver)
    monkeypatch.setattr("slam.sources.capture.camera_numbers", lambda: [1, 3])


def test_a_camera_that_gives_something_else_is_warned_of(
    driver: None, caplog: pytest.LogCaptureFixture
) -> None:
    CameraSource(LiveSettings(device="3", width=640, height=480, fps=30.0))
    assert "asked for 640x480 px, it gives 64x48" in caplog.text
    assert "asked for 30 images/s, it gives 15" in caplog.text
    assert caplog.text.count("--exposure") == 1


def test_a_fixed_exposure_is_set_and_not_warned_of(
    driver: None, caplog: pytest.LogCaptureFixture
) -> None:
    source = CameraSource(LiveSettings(device="/dev/video3", exposure=120.0))
    assert caplog.text == "" and source.camera.width == 64


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no list of cameras")
def test_a_missing_camera_is_told_those_that_there_are(driver: None, run_cli: Command) -> None:
    expect_one_line(run_cli("live", "--device", "2"), "camera 2: no such camera", "1, 3")


def test_cameras_are_listed_by_number_and_name(
    run_cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slam.sources.devices.camera_numbers", lambda: [93, 97])
    monkeypatch.setattr("slam.sources.devices.serial_numbers", lambda: [("0815", "D435")])
    listed = run_cli("live", "--list").out.splitlines()
    assert listed == ["93  /dev/video93", "97  /dev/video97", "realsense:0815  D435"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no/film.avi",), ("no/film.avi", "--list")),
        (("http://127.0.0.1:9/none.mjpg",), ("127.0.0.1:9", "wanted a video stream")),
        (("0", "--size", "640"), ("--size", "640x480", "'640'")),
        (("0", "--size", "4x4"), ("live.width", "16")),
        (("0", "--fps", "0"), ("live.fps",)),
        (("0", "--device", "1"), ("one camera",)),
        (("rtsp://localhost/x", "--loop"), ("--loop", "file")),
        ((SAMPLE, "--fps", "15"), ("--fps", "--exposure", "sample")),
        (("realsense",), ("pyrealsense2", "[realsense]")),
        (("0", "--predictor", "simulated"), ("simulated", "no camera gives")),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str | Path, ...],
    words: tuple[str, ...],
    run_cli: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    expect_one_line(run_cli("live", *arguments), *words)


def test_a_calibration_for_another_size_is_one_line(
    driver: None, run_cli: Command, tmp_path: Path
) -> None:
    result = run_cli("live", "3", "--calib", CALIBRATION, "--out", tmp_path)
    expect_one_line(result, "640x480", "64x48", "--calib none")


class Pipeline:
    """Stands in for pyrealsense2's."""

    def start(self, _: object) -> SimpleNamespace:
        found = SimpleNamespace(
            width=64, height=48, fx=60.0, fy=61.0, ppx=31.0, ppy=23.0, model=1, coeffs=[0.1] * 5
        )
        profile = SimpleNamespace(get_intrinsics=lambda: found)
        stream = SimpleNamespace(as_video_stream_profile=lambda: profile)
        sensor = SimpleNamespace(supports=lambda _: True, get_option=lambda _: 1.0)
        device = SimpleNamespace(query_sensors=lambda: [sensor])
        return SimpleNamespace(get_stream=lambda _: stream, get_device=lambda: device)

    def wait_for_frames(self, _: int) -> SimpleNamespace:
        image = np.full((48, 64, 3), 7, np.uint8)
        return SimpleNamespace(get_color_frame=lambda: SimpleNamespace(get_data=lambda: image))

    def stop(self) -> None:
        """Nothing runs."""


def test_a_realsense_camera_brings_its_calibration(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[object] = []
    wanted = SimpleNamespace(
        enable_device=asked.append, enable_stream=lambda *a: asked.append(a[1:3])
    )
    library = SimpleNamespace(
        pipeline=Pipeline,
        config=lambda: wanted,
        stream=SimpleNamespace(color=1),
        format=SimpleNamespace(rgb8=2),
        option=SimpleNamespace(enable_auto_exposure=3, exposure=4),
        distortion=SimpleNamespace(
            brown_conrady=1, inverse_brown_conrady=2, modified_brown_conrady=3
        ),
    )
    monkeypatch.setitem(sys.modules, "pyrealsense2", library)
    source = CameraSource(LiveSettings(device="realsense:0815", width=64, height=48))
    expected = Camera("radtan", 64, 48, (60.0, 61.0, 31.0, 23.0), (0.1,) * 5)
    assert source.raw_camera == expected and source.calibration_source == "the camera's own"
    assert asked == ["0815", (64, 48)]
    assert caplog.text.count("--exposure") == 1
