"""Runs that browsers watch: to their end, with a viewer that fails, steered, hanging."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("viser", reason="viser is not installed: pip install '.[web]'")

from chromium import Chromium, Page
from conftest import PACKAGE_PARENT
from sequences import OUTPUTS, SAMPLE, cut_sample
from viewer_scenes import scene_of, small_config
from web_pages import PATIENCE, Watched

from slam.outputs import RunResult
from slam.run import run
from slam.viewer.run_thread import RunThread
from slam.viewer.web_live import Messenger, WebLive, run_in_browser
from slam.viewer.web_page import Event
from slam.viewer.web_server import Address, open_door, serving


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without a viewer, on `cut` beside it."""
    folder = tmp_path_factory.mktemp("alone")
    return run(small_config(cut_sample(folder / "cut", range(30)), folder / "out")).folder


def expect_same(one: Path, other: Path) -> None:
    """Two runs found the same, to the bit."""
    for name in ("trajectory.txt", "trajectory_causal.txt", "map.ply"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
def test_a_run_that_a_browser_watches_finds_what_it_finds_alone(
    browser: Chromium, alone: Path, tmp_path: Path
) -> None:
    seen: list[np.ndarray] = []

    def script(tab: Page, live: WebLive) -> None:
        done = tab.text_where(lambda text: "done, written to" in text)
        assert "keyframes" in done
        seen.append(tab.picture_where(lambda p: colors(p) > 2000))
        assert live.page.map.sent > 1000 and not tab.errors

    result = Watched(browser, script).run(alone.parent / "cut", tmp_path / "out")
    assert result.exit_code == 0 and colors(seen[0]) > 2000
    expect_same(alone, result.folder)


def colors(picture: np.ndarray) -> int:
    """How many different ones there are, beside the panel."""
    return len(np.unique(picture[:, : picture.shape[1] // 2].reshape(-1, 3), axis=0))


def test_without_a_browser_the_run_ends_when_it_is_saved(alone: Path, tmp_path: Path) -> None:
    config = small_config(alone.parent / "cut", tmp_path / "out")
    lives: list[WebLive] = []
    result = run_in_browser(
        config, lambda _: None, Address(port=0), lambda _: None, opened=lives.append
    )
    assert result.exit_code == 0 and lives[0].page.map.sent == 0
    expect_same(alone, result.folder)


def test_a_viewer_that_fails_leaves_the_run_alone(
    alone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the page\nis gone")

    monkeypatch.setattr(WebLive, "_heed", fail)
    config = small_config(alone.parent / "cut", tmp_path / "out")
    result = run_in_browser(config, lambda _: None, Address(port=0), lambda _: None)
    assert result.exit_code == 0
    expect_same(alone, result.folder)
    said = [r.getMessage() for r in caplog.records if "viewer failed" in r.getMessage()]
    assert said == [
        "the viewer failed (RuntimeError: the page is gone); the run goes on without it"
    ]


def test_a_final_map_that_cannot_be_read_leaves_the_last_scene_and_the_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "map.slam").write_bytes(b"damaged")
    config, events = small_config(SAMPLE, tmp_path), SimpleQueue[Event]()
    watcher = Messenger(events)
    thread = RunThread(config, watcher, lambda _: None)
    thread.result = RunResult(tmp_path, {}, 0)
    said: list[str] = []
    with serving(open_door(Address(port=0))) as server:
        live = WebLive(server, events, watcher, thread, config)
        live.page.show(scene := scene_of(2))
        monkeypatch.setattr(live.page, "notice", said.append)
        monkeypatch.setattr(live.page.panel, "say", lambda _: watcher.interrupt())  # said last
        events.put(Event("over"))
        live.follow(stay=True)
        assert live.page.scene is scene
    (notice,) = said
    assert "cannot be shown" in notice and "map.slam" in notice and notice in caplog.text


def test_bad_input_is_raised(tmp_path: Path) -> None:
    config = small_config(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run_in_browser(config, lambda _: None, Address(port=0), lambda _: None, stay=True)


@pytest.mark.slow
def test_a_browser_that_hangs_holds_nothing_up(
    browser: Chromium, alone: Path, tmp_path: Path
) -> None:
    def script(tab: Page, live: WebLive) -> None:
        live.page.notice("x" * 50_000_000)  # more than any buffer on the way takes
        with browser.hanging():
            live.thread.join()

    result = Watched(browser, script).run(alone.parent / "cut", tmp_path / "out")
    assert result.exit_code == 0
    expect_same(alone, result.folder)


@pytest.mark.slow
def test_buttons_pause_save_and_stop_the_run(
    browser: Chromium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rests = tmp_path / "out", threading.Event()

    class Resting(threading.Condition):
        """Says when the run begins to wait."""

        def wait(self, timeout: float | None = None) -> bool:
            rests.set()
            return super().wait(timeout)

    class Announcing(Messenger):
        """Its run says when it waits in a pause."""

        def __init__(self, events: SimpleQueue[Event]) -> None:
            super().__init__(events)
            self._change = Resting()

    monkeypatch.setattr("slam.viewer.web_live.Messenger", Announcing)

    def click(tab: Page, button: str) -> None:
        """A click after which the run rests."""
        rests.clear()
        tab.click(button)
        assert rests.wait(PATIENCE)

    def frames(live: WebLive) -> int:
        return 0 if live.watcher.latest is None else live.watcher.latest.frames

    def script(tab: Page, live: WebLive) -> None:
        tab.text_where(lambda text: "tracked" in text)
        click(tab, "Pause")
        tab.text_where(lambda text: "Go on" in text)
        paused = frames(live)
        click(tab, "Save now")
        tab.text_where(lambda text: "saved" in text)
        assert frames(live) == paused + 1 and (out / "map.ply").is_file()
        click(tab, "Step")
        assert frames(live) == paused + 2
        tab.click("Go on")
        tab.text_where(lambda text: "Pause" in text and "tracked" in text)
        tab.click("Stop")
        tab.text_where(lambda text: "done, written to" in text)

    result = Watched(browser, script).run(cut_sample(tmp_path / "cut", range(300)), out)
    assert result.exit_code == 0 and {p.name for p in out.iterdir()} == OUTPUTS
    assert result.report["processed"] < 300


@pytest.mark.slow
def test_ctrl_c_adjusts_saves_and_exits_with_130(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "slam", "run", "--viewer", "web", str(SAMPLE), "--realtime"]
    options = ["-v", "--web-port", "0", "--out", str(out), "--set", "flow.long_side=200"]
    process = subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, bufsize=0, cwd=PACKAGE_PARENT
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line.decode())
        if "map started" in lines[-1]:
            break
    assert any("slam: viewer: http://127.0.0.1:" in line for line in lines), lines
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    assert {p.name for p in out.iterdir()} == OUTPUTS


@pytest.mark.slow
def test_a_run_is_shown_from_its_files_until_ctrl_c(alone: Path) -> None:
    command = [sys.executable, "-m", "slam", "view", "--viewer", "web", "--web-port", "0"]
    process = subprocess.Popen(
        [*command, str(alone)], stderr=subprocess.PIPE, text=True, cwd=PACKAGE_PARENT
    )
    assert process.stderr is not None
    url = next(line for line in process.stderr if "http://" in line).split()[-1]
    answer = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    answer.request("GET", "/")
    assert answer.getresponse().status == 200
    answer.close()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and errors.splitlines()[-1] == "slam: interrupted"
