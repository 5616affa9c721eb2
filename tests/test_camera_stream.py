"""Images of a camera as they come: the newest wins, cameras come back."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from scripted_camera import Scripted, photographs, stream_of

from slam.live_settings import LiveSettings
from slam.playing import playing
from slam.sources import open_source
from slam.sources.camera import CameraSource
from slam.sources.capture import Shot
from slam.sources.recorded import NAME


def test_the_newest_image_wins_and_dropped_ones_leave_gaps() -> None:
    device = Scripted([10, "more"])
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
    lost, back = [r.getMessage() for r in caplog.records]
    assert lost == "scripted: no image comes; waiting for the camera"
    assert re.fullmatch(r"scripted: back after \d+\.\d s", back)
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


def test_a_stream_that_nobody_began_leaves_no_thread_and_no_recording(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("slam.sources.camera.find_device", lambda _: Scripted([1, 2], ends=True))
    stream = CameraSource(LiveSettings(device="0"), "none").in_real_time(tmp_path)
    with playing(stream, None):
        """Ctrl-C came before the first image was wanted."""
    assert not [t for t in threading.enumerate() if t.name in ("camera", "recorder")]
    assert not list(tmp_path.iterdir()) and stream.facts()["recording"] is None


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
