"""Live runs: the newest image wins, cameras come back, recordings repeat what they gave."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import CommandResult, expect_one_line
from killed import run_killed
from sequences import SAMPLE, cut_sample

from slam.camera import Camera, load_calibration
from slam.frame import Image
from slam.live_settings import LiveSettings
from slam.sources import open_source
from slam.sources.calibration import UNCALIBRATED, Calibration
from slam.sources.camera import CameraSource, CameraStream
from slam.sources.capture import FileCapture, Shot
from slam.sources.recorded import NAME, WAITING, Recorder
from slam.sources.registry import read_recording

Command = Callable[..., CommandResult]
CALIBRATION = SAMPLE / "calibration.yaml"
KNOWN = ("--calib", CALIBRATION, "--set", "flow.long_side=240", "-q")  # small images: quick


# --- cameras that do what they are told ----------------------------------------------------------


class Scripted:
    """A camera at the seam: gives an image for each number, fails at "out", is gone at "gone".

    Where the script is through it waits, or ends if `ends`. `idle` says that it is.
    """

    total: int | None = None
    calibration: Calibration = UNCALIBRATED
    folder: Path | None = None
    rate, exposes = 0.0, False
    name = "scripted"

    def __init__(self, script: list[int | str], ends: bool = False) -> None:
        self.script = script
        self.ends = ends
        self.idle = threading.Event()
        self.more = threading.Event()
        self.opened = 0

    def open(self) -> Scripted:
        if self.script and self.script[0] == "gone":
            self.script.pop(0)
            raise ValueError("no such camera")
        self.opened += 1
        return self

    def read(self, stopped: threading.Event) -> Shot | None:
        if not self.script and not self.ends:
            self.idle.set()
            while not stopped.is_set() and not self.more.wait(0.01):
                pass
            self.more.clear()
        if not self.script or not isinstance(value := self.script.pop(0), int):
            return None
        return Shot(np.full((4, 6, 3), value, np.uint8), time.monotonic())

    def close(self) -> None:
        """Nothing is held."""


def stream_of(device: Scripted, recorder: Recorder | None = None) -> CameraStream:
    """Images that count up; their colour is what the script says."""
    count = iter(range(10_000))

    def take_in(raw: np.ndarray, time: float) -> Image:
        return Image(next(count), time, time, torch.from_numpy(raw))

    return CameraStream(device, take_in, recorder)


def test_the_newest_image_wins_and_dropped_ones_leave_gaps() -> None:
    device = Scripted([10])
    stream = stream_of(device)
    images = iter(stream)
    first = next(images)
    assert device.idle.wait(5)
    device.idle.clear()
    device.script += [11, 12, 13, 14]
    device.more.set()
    assert device.idle.wait(5)  # all four were captured while nobody took one
    last = next(images)
    images.close()
    assert [(i.index, int(i.rgb[0, 0, 0])) for i in (first, last)] == [(0, 10), (4, 14)]
    assert stream.dropped == 3 and sorted(stream.captured) == list(range(5))


def test_drops_are_what_was_captured_and_not_taken() -> None:
    device = Scripted(list(range(50)), ends=True)
    stream = stream_of(device)
    taken = []
    for image in stream:
        taken.append(image.index)
        time.sleep(0.002)  # a slow consumer is what is tested
    assert len(taken) + stream.dropped == 50 and taken[-1] == 49
    assert taken == sorted(taken)


def test_a_camera_that_comes_back_goes_on_with_time_and_index(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slam.sources.camera.SHORTEST", 0.05)
    device = Scripted([1, 2, "out", "gone", "gone", "out", 3, 4])
    stream = stream_of(device)
    shown = []
    with caplog.at_level(logging.WARNING, "slam"):
        for image in stream:
            shown.append(image)
            if image.index == 3:
                break
    assert [i.index for i in shown][-1] == 3 and int(shown[-1].rgb[0, 0, 0]) == 4
    times = [i.time for i in shown]
    assert times == sorted(times)
    assert [r.message.split(":")[1][:9] for r in caplog.records] == [" no image", " back aft"[:9]]
    (wait,) = stream.facts()["waited"]
    assert 0.7 < wait["to"] - wait["from"] < 10  # pauses of 0.05, 0.1, 0.2 and 0.4 s
    assert stream.facts()["captured"] == 4


def test_stopping_ends_a_wait_for_a_camera_at_once() -> None:
    device = Scripted([1, "out", *["gone"] * 10_000])
    stream = stream_of(device)
    images = iter(stream)
    assert next(images).index == 0
    threading.Timer(0.1, stream.stop).start()
    start = time.monotonic()
    assert next(images, None) is None
    assert time.monotonic() - start < 5
    assert not [t for t in threading.enumerate() if t.name == "camera"]
    assert len(stream.facts()["waited"]) == 1


def test_another_image_size_is_an_error_where_images_are_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = Scripted([1, 2, 3], ends=True)
    monkeypatch.setattr("slam.sources.camera.find_device", lambda _: device)
    source = CameraSource(LiveSettings(device="0", record=False), "none")
    grown = np.zeros((8, 12, 3), np.uint8)
    monkeypatch.setattr(device, "read", lambda _: Shot(grown, time.monotonic()))
    with pytest.raises(ValueError, match=r"wanted an image of 6x4 px .* got 12x8"):
        list(source.in_real_time(tmp_path))


# --- recordings ----------------------------------------------------------------------------------


def photographs(count: int) -> list[np.ndarray]:
    """Images of the sample, [480, 640, 3] uint8 RGB."""
    files = sorted((SAMPLE / "rgb").iterdir())[:count]
    return [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files]


def record(path: Path, images: list[np.ndarray]) -> list[float]:
    """A recording of images at awkward times, which are returned."""
    times = [0.1 + n / 30 + 1e-9 * n * n for n in range(len(images))]
    recorder = Recorder(path, 95, load_calibration(CALIBRATION))
    for index, image in enumerate(images):
        recorder.put(index, times[index], image)
    recorder.close()
    return times


def test_a_recording_gives_the_same_images_times_and_calibration(tmp_path: Path) -> None:
    images = photographs(5)
    times = record(tmp_path / NAME, images)
    source = open_source(tmp_path / NAME)
    assert source.times.tolist() == times
    assert source.raw_camera == load_calibration(CALIBRATION)
    for image, original in zip(source.images(), images, strict=True):
        assert np.abs(image.rgb.numpy().astype(float) - original).mean() < 1.5
    backwards = [i.index for i in source.images([3, 1])]
    assert backwards == [3, 1]


def test_any_player_reads_a_recording_without_its_table(tmp_path: Path) -> None:
    record(tmp_path / NAME, photographs(4))
    (tmp_path / NAME).with_suffix(".csv").unlink()
    assert len(open_source(tmp_path / NAME)) == 4


def test_what_a_killed_process_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / NAME
    record(path, photographs(4))
    table = path.with_suffix(".csv")
    table.write_text(table.read_text()[:-9])  # the last row is cut short
    path.write_bytes(path.read_bytes()[:-40_000])
    assert [i.index for i in open_source(path).images()] == [0, 1, 2]
    second = int(table.read_text().splitlines()[2].split(",")[2])  # where it begins
    path.write_bytes(path.read_bytes()[: second + 999])  # the disk lost more than the table says
    assert [i.index for i in open_source(path).images()] == [0]


def test_a_slow_disk_leaves_images_out_and_never_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    may_write = threading.Event()

    def slow(image: np.ndarray, quality: int, encode: Callable[..., bytes]) -> bytes:
        may_write.wait(10)
        return encode(image, quality)

    from slam.sources import recorded

    monkeypatch.setattr(recorded, "_encode", partial(slow, encode=recorded._encode))
    recorder = Recorder(tmp_path / NAME, 90, None)
    for index in range(WAITING + 8):
        recorder.put(index, index / 30, photographs(1)[0])
    may_write.set()
    recorder.put(WAITING + 8, 2.0, photographs(1)[0])
    recorder.close()
    assert recorder.left_out >= 7 and "left out" in caplog.text
    source = open_source(tmp_path / NAME)
    assert len(source.recorded) == WAITING + 9  # all that were captured
    assert len(source) == WAITING + 9 - recorder.left_out == recorder.written
    assert set(source.indices) >= set(range(WAITING - 1))
    assert [i.index for i in source.images()] == source.indices.tolist()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_said_once_and_ends_the_recording_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).symlink_to("/dev/full")
    recorder = Recorder(tmp_path / NAME, 90, None)
    for index in range(5):
        recorder.put(index, index / 30, np.zeros((480, 640, 3), np.uint8))
    recorder.close()
    assert caplog.text.count("No space left") == 1 and "the run goes on" in caplog.text
    assert recorder.facts() == {
        "file": NAME,
        "images": 0,
        "left_out": 0,
        "failed": "No space left on device",
    }


@pytest.mark.parametrize(
    ("table", "said"),
    [("", "no image was captured"), ("0,0.0,0\n", "wanted index"), ("0,a,0,5\n", "could not conv")],
)
def test_a_damaged_table_is_one_line(
    tmp_path: Path, run_cli: Command, table: str, said: str
) -> None:
    (tmp_path / NAME).write_bytes(b"")
    (tmp_path / "recording.csv").write_text("# index,seconds,offset,bytes\n" + table)
    expect_one_line(run_cli("run", tmp_path / NAME), "recording.csv", said)


# --- files as cameras ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's first 50 images at 30 Hz."""
    path = tmp_path_factory.mktemp("film") / "sample.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (640, 480))
    for image in photographs(50):
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def shots(capture: FileCapture, count: int) -> list[Shot]:
    """The next ones, without waiting for their times."""
    capture._start = -1e9
    never = threading.Event()
    found = [capture.read(never) for _ in range(count)]
    return [shot for shot in found if shot is not None]


def test_a_looped_folder_turns_round_and_its_times_go_on(tmp_path: Path) -> None:
    stamps = [5.0, 5.1, 5.3]
    sequence = cut_sample(tmp_path / "s", range(0, 30, 10), times=stamps)
    recording = read_recording(sequence)
    seen = shots(FileCapture(recording, loop=True), 7)
    assert [s.stamp for s in seen] == pytest.approx([5.0, 5.1, 5.3, 5.5, 5.6, 5.7, 5.9])
    read = recording.frames.reader()
    for shot, place in zip(seen, [0, 1, 2, 1, 0, 1, 2], strict=True):
        assert (shot.raw == read(place)).all()
    assert len(shots(FileCapture(recording, loop=False), 7)) == 3


def test_a_looped_video_begins_again(film: Path) -> None:
    seen = shots(FileCapture(read_recording(film, end=3), loop=True), 5)
    assert [s.stamp for s in seen] == pytest.approx([n / 30 for n in range(5)], abs=1e-3)
    assert (seen[3].raw == seen[0].raw).all()


@pytest.fixture(scope="module")
def live_run(film: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A live run on the film, as a user would."""
    from slam.cli import main

    out = tmp_path_factory.mktemp("live") / "out"
    arguments = ["live", film, *KNOWN, "--out", out]
    assert main([str(argument) for argument in arguments]) == 0
    return out


def test_a_live_run_reports_what_it_took_and_when(live_run: Path) -> None:
    report = json.loads((live_run / "report.json").read_text())
    live = report["live"]
    assert report["frames"] == live["captured"] == 50
    assert live["taken"] + report["dropped"] == 50
    assert report["posed"] > 20
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p95"]
    assert live["waited"] == []
    assert live["recording"] == {"file": NAME, "images": 50, "left_out": 0, "failed": ""}
    assert report["format"] == "camera" and report["source"].endswith("sample.avi")


def test_a_live_run_is_repeated_offline_from_its_recording(
    live_run: Path, film: Path, tmp_path: Path, run_cli: Command
) -> None:
    again, original = open_source(live_run / NAME), open_source(film)
    assert again.times.tolist() == original.times.tolist()
    for image, other in zip(again.images(range(3)), original.images(range(3)), strict=True):
        assert (image.rgb.float() - other.rgb.float()).abs().mean() < 3
    out = tmp_path / "again"
    config = ("--config", live_run / "config.yaml", "--set", "run.realtime=false", "--end", "30")
    assert run_cli("run", live_run / NAME, "--out", out, *config, "-q").code == 0
    report = json.loads((out / "report.json").read_text())
    assert report["posed"] == report["processed"] == 30 and "live" not in report
    assert "beside the recording" not in report["source"]
    assert report["calibration"] == str(CALIBRATION)


def test_a_live_run_knows_where_its_images_are(live_run: Path) -> None:
    from slam.config import load_config

    config = load_config(live_run / "config.yaml")
    assert config.source.path == str(live_run / NAME)
    assert config.live.device.endswith("sample.avi")


def test_who_goes_on_with_its_map_has_a_camera_of_their_own(live_run: Path) -> None:
    from slam.saved_map import settings_in_map

    settings = settings_in_map(live_run, None, ["live.device=1"])
    assert settings.live == LiveSettings(device="1") and settings.flow.long_side == 240


def test_a_recording_is_not_written_over_itself(live_run: Path, run_cli: Command) -> None:
    size = (live_run / NAME).stat().st_size
    expect_one_line(run_cli("live", live_run / NAME, "--out", live_run), "--out", "--no-record")
    assert (live_run / NAME).stat().st_size == size


def test_a_killed_live_run_is_resumed_from_its_recording_or_not_at_all(
    film: Path, tmp_path: Path, run_cli: Command
) -> None:
    out, bare = tmp_path / "out", tmp_path / "bare"
    arguments = (film, *KNOWN, "--out", out, "--loop")
    run_killed(arguments, keyframes=4, after=0.2, command="live")
    shutil.copytree(out, bare)
    (bare / NAME).unlink()
    expect_one_line(run_cli("resume", bare), str(bare), NAME, "film it again")
    recorded = len(open_source(out / NAME))
    assert run_cli("resume", out, "-q").code == 0
    report = json.loads((out / "report.json").read_text())
    assert report["format"] == "recording" and report["frames"] == recorded
    first = report["resumed_at"]
    assert 0 < first < recorded and report["processed"] >= recorded - first
    assert report["posed"] >= 0.8 * report["processed"]


# --- ends ----------------------------------------------------------------------------------------


class Filming(Scripted):
    """Plays photographs at 30 Hz; then it does what `afterwards` does, and is gone for good."""

    def __init__(self, count: int, afterwards: Callable[[], None]) -> None:
        super().__init__([*range(count), "out", *["gone"] * 10_000])
        self.images = photographs(count)
        self.afterwards = afterwards

    def read(self, stopped: threading.Event) -> Shot | None:
        number, shot = self.script[0], super().read(stopped)
        if shot is None:
            self.afterwards()
            return None
        stopped.wait(0.03)
        return Shot(self.images[int(number)], shot.captured)


def test_ctrl_c_ends_the_wait_for_an_unplugged_camera_and_saves(
    tmp_path: Path, run_cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Filming(40, lambda: os.kill(os.getpid(), signal.SIGINT))
    monkeypatch.setattr("slam.sources.camera.find_device", lambda _: device)
    out = tmp_path / "out"
    result = run_cli("live", "0", *KNOWN, "--out", out)
    assert result.code == 0, result.err  # that is how a run of a camera ends
    report = json.loads((out / "report.json").read_text())
    assert report["live"]["captured"] == 39  # the first one was only looked at
    assert report["posed"] > 15 and not (out / "session.journal").exists()
    assert (out / "map.ply").is_file() and (out / NAME).is_file()


# --- the network ---------------------------------------------------------------------------------


class MotionJpeg(BaseHTTPRequestHandler):
    """Serves photographs as network cameras do, until nobody listens."""

    def do_GET(self) -> None:  # the name is http.server's
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for image in self.server.images:  # pyright: ignore[reportAttributeAccessIssue]
            data = cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + data + b"\r\n")
            except OSError:
                return
            self.server.pace.wait(0.02)  # pyright: ignore[reportAttributeAccessIssue]

    def log_message(self, format: str, *args: object) -> None:
        """Not on standard error."""


@pytest.fixture
def served() -> Iterator[str]:
    """URL of a motion JPEG stream on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), MotionJpeg)
    server.daemon_threads = True
    server.images = photographs(60)  # pyright: ignore[reportAttributeAccessIssue]
    server.pace = threading.Event()  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://user:secret@127.0.0.1:{server.server_port}/video.mjpg"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_motion_jpeg_stream_is_a_camera_that_comes_back(served: str, tmp_path: Path) -> None:
    source = CameraSource(LiveSettings(device=served), "none")
    assert (source.camera.width, source.camera.height) == (640, 480)
    assert source.total is None and "secret" not in f"{source.path} {source.name}"
    stream = source.in_real_time(tmp_path)
    connections = 0
    for image in stream:
        connections = len(stream.waits)
        if connections and image.index > 65:
            break
    assert connections >= 1  # each connection serves 60 images, then ends
    assert len(source.times) > 65 and (np.diff(source.times) > 0).all()
    again = open_source(tmp_path / NAME)
    assert again.times.tolist() == source.times.tolist()


# --- what is asked of a camera -------------------------------------------------------------------


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


# --- RealSense -----------------------------------------------------------------------------------


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
