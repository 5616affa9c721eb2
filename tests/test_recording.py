"""Recordings of cameras: they repeat what was given, whatever became of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from conftest import CommandResult, expect_one_line
from scripted_camera import CALIBRATION, photographs

from slam.camera import load_calibration
from slam.sources import open_source
from slam.sources.recorded import NAME, WAITING, Recorder

Command = Callable[..., CommandResult]


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
    ("answer", "said"),
    [
        (None, "at most 65500 px a side, got 70000x1"),
        ((False, None), "could not write an image of 70000x1 px"),
        (cv2.error("out of\n memory"), "out of memory"),
    ],
)
def test_an_image_that_is_no_jpeg_is_said_once_and_ends_the_recording_alone(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    answer: tuple[bool, None] | Exception | None,
    said: str,
) -> None:
    if answer is not None:
        monkeypatch.setattr("slam.sources.recorded.LONGEST_SIDE", 100_000)
        answers = Mock(side_effect=[answer])
        monkeypatch.setattr("slam.sources.recorded.cv2.imencode", answers)
    recorder = Recorder(tmp_path / NAME, 90, None)
    for index in range(3):
        recorder.put(index, index / 30, np.zeros((1, 70_000, 3), np.uint8))
    recorder.close()
    assert said in recorder.facts()["failed"] and recorder.written == 0
    assert caplog.text.count(said) == 1 and "Traceback" not in caplog.text


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
