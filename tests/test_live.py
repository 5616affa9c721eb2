"""Live runs: what they report, how they end, and that they can be repeated."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from conftest import CommandResult, expect_one_line
from killed import run_killed
from scripted_camera import CALIBRATION, Scripted, photographs
from sequences import cut_sample

from slam.live_settings import LiveSettings
from slam.sources import open_source
from slam.sources.capture import FileCapture, Shot
from slam.sources.recorded import NAME
from slam.sources.registry import read_recording

Command = Callable[..., CommandResult]
KNOWN = ("--calib", CALIBRATION, "--set", "flow.long_side=240", "-q")  # small images: quick
MOST = 0.9  # of the images taken are posed: all where no gap is large; a busy machine leaves gaps


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
    assert live["taken"] > 20  # how many a machine keeps up with is its own: 47 on two free cores
    assert report["posed"] >= MOST * live["taken"]
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


@pytest.mark.slow
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
    assert 0 < first <= recorded  # equal where it was killed with nothing more on the disk
    assert report["processed"] >= recorded - first
    assert report["posed"] >= MOST * report["processed"]


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
    live = report["live"]
    assert live["captured"] == 39  # the first one was only looked at
    assert live["taken"] > 15  # its own, too
    assert report["posed"] >= MOST * live["taken"] and not (out / "session.journal").exists()
    assert (out / "map.ply").is_file() and (out / NAME).is_file()
