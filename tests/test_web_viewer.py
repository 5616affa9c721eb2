"""The viewer in browsers: the door, what is sent, pictures in headless Chromium, watched runs."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("viser", reason="viser is not installed: pip install '.[web]'")

from chromium import Chromium, Page, chromium, executable
from conftest import PACKAGE_PARENT, CommandResult, expect_one_line
from sequences import OUTPUTS, SAMPLE, cut_sample
from viewer_scenes import INTRINSICS, SIZE, keyframe, pose, scene_of, small_config
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from slam.frame import Snapshot
from slam.outputs import RunResult
from slam.predictors import Grid
from slam.run import run
from slam.viewer.points import point_vertices, pose_matrix
from slam.viewer.scene import Scene, SceneBuilder
from slam.viewer.web_live import WebLive, run_in_browser
from slam.viewer.web_map import Choice, WebMap, fair_share, keyframe_place, place_matrix
from slam.viewer.web_page import Event, WebPage
from slam.viewer.web_server import Address, Door, Server, open_door, serving

TOKEN = "a-token-of-some-length"
PATIENCE = 60.0  # s
Command = Callable[..., CommandResult]


# --- the door -------------------------------------------------------------------------------------


@contextmanager
def opened(monkeypatch: pytest.MonkeyPatch, host: str = "127.0.0.1", token: str = "") -> Iterator:
    """A server on any free port: its door."""
    monkeypatch.setenv("SLAM_WEB_TOKEN", token)
    door = open_door(Address(host, 0))
    with serving(door):
        yield door


def get(door: Door, target: str, **headers: str) -> http.client.HTTPResponse:
    """An answer to a plain request."""
    asking = http.client.HTTPConnection("127.0.0.1", door.listening.getsockname()[1], timeout=10)
    asking.request("GET", target, headers=headers)
    answer = asking.getresponse()
    answer.body = answer.read()
    asking.close()
    return answer


def websocket_status(door: Door, target: str = "/", **headers: str) -> int:
    """101 where a websocket is opened, otherwise the status of the refusal."""
    port = door.listening.getsockname()[1]
    origin = headers.pop("Origin", None)
    try:
        with connect(
            f"ws://127.0.0.1:{port}{target}",
            origin=origin,  # pyright: ignore[reportArgumentType]
            additional_headers=headers,
            subprotocols=["viser-v0"],  # pyright: ignore[reportArgumentType]
            proxy=None,
        ):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_other_machines_need_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch, "0.0.0.0") as door:
        address = urlsplit(door.url)
        token = address.query.removeprefix("token=")
        assert address.hostname == socket.gethostname().lower() and len(token) >= 32
        assert get(door, "/").status == get(door, "/?token=wrong").status == 403
        assert websocket_status(door) == websocket_status(door, "/?token=wrong") == 403
        page = get(door, f"/?token={token}")
        assert page.status == 200 and b"<html" in page.body
        cookie = page.headers["Set-Cookie"].partition(";")[0]
        assert get(door, "/", Cookie=cookie).status == 200
        assert websocket_status(door, Cookie=cookie) == 101
        assert websocket_status(door, Cookie=cookie, Origin="http://evil.example") == 403


def test_two_servers_have_two_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch, "0.0.0.0") as one, opened(monkeypatch, "0.0.0.0") as other:
        assert one.guard.token != other.guard.token and one.guard.name != other.guard.name
        assert get(other, f"/?token={one.guard.token}").status == 403


def test_on_loopback_no_other_site_may_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch) as door:
        own = f"http://127.0.0.1:{door.listening.getsockname()[1]}"
        assert door.url == own + "/"
        page = get(door, "/")
        assert page.status == 200 and "Set-Cookie" not in page.headers
        policy = page.headers["Content-Security-Policy"]
        assert f"connect-src 'self' {own.replace('http', 'ws')} " in policy
        assert "frame-ancestors 'none'" in policy
        assert websocket_status(door) == websocket_status(door, Origin=own) == 101
        assert get(door, "/", Host="evil.example").status == 403  # DNS rebinding
        assert get(door, "/", Origin="http://evil.example").status == 403
        assert websocket_status(door, Origin="http://evil.example") == 403
        assert websocket_status(door, Host="evil.example") == 403


def test_a_token_that_is_given_holds_on_loopback_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(monkeypatch, token=TOKEN) as door:
        assert door.url.endswith(f"/?token={TOKEN}")
        assert get(door, "/").status == 403 and get(door, f"/?token={TOKEN}").status == 200


def test_only_the_port_of_the_door_is_open_and_no_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLAM_WEB_TOKEN", raising=False)
    door = open_door(Address(port=0))
    with serving(door) as server:
        assert server.get_port() == door.listening.getsockname()[1]
        assert server.request_share_url() is None
    assert door.listening.fileno() == -1  # closed with the server


def test_what_strangers_send_is_not_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(monkeypatch) as door:
        for nonsense in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n"):
            with socket.create_connection(door.listening.getsockname()) as stranger:
                stranger.sendall(nonsense)
                stranger.settimeout(10)
                stranger.recv(1000)
        assert get(door, "/").status == 200
    assert not caplog.records


def test_a_server_that_lets_everybody_in_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slam.viewer.web_guard.Guard.refusal", lambda *_: "")
    door = open_door(Address(port=0))
    with pytest.raises(ValueError, match="answers without asking"), serving(door):
        pass


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch, run_cli: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        line = run_cli("run", SAMPLE, "--viewer", "web", "--web-port", taken)
        expect_one_line(line, "--web-port", str(taken), "taken")
        monkeypatch.setattr("slam.viewer.web_server.PORT", taken)
        door = open_door(Address())
        assert taken < door.listening.getsockname()[1] < taken + 20
        door.listening.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--web-port", "65536"), ("--web-port", "65536")),
        (("--web-port", "-1"), ("--web-port", "-1")),
        (("--web-host", "no.such.name.invalid"), ("--web-host", "no.such.name.invalid")),
        (("--web-host", "192.0.2.1"), ("192.0.2.1",)),  # nobody's
    ],
)
def test_an_address_that_cannot_be_used_is_bad_input(
    arguments: tuple[str, ...], words: tuple[str, ...], run_cli: Command
) -> None:
    expect_one_line(run_cli("run", SAMPLE, "--viewer", "web", *arguments), *words)


def test_viser_that_is_missing_leaves_the_run_alone(
    run_cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    monkeypatch.delitem(sys.modules, "slam.viewer.web_server")
    shown = run_cli("view", tmp_path, "--viewer", "web")
    expect_one_line(shown, "no viewer", "viser", "'.[web]'")
    missing = run_cli("run", tmp_path / "nowhere", "--viewer", "web")
    assert "slam: no viewer: wanted viser" in missing.err and "running without it" in missing.err
    assert "nowhere" in missing.err  # it did run


def test_the_web_viewer_wants_no_qt() -> None:
    script = "import sys; sys.modules['PySide6'] = None; import slam.viewer.web_live"
    subprocess.run([sys.executable, "-c", script], cwd=PACKAGE_PARENT, check=True)


# --- what is sent ---------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """One on any free port."""
    monkeypatch.delenv("SLAM_WEB_TOKEN", raising=False)
    with serving(open_door(Address(port=0))) as made:
        yield made


@pytest.mark.parametrize("focal", [1.0, 1.3])
def test_points_and_place_give_what_the_scene_says(focal: float) -> None:
    """A focal length that has changed since the points were sent stretches them."""
    scene = scene_of(2)
    view = replace(scene.keyframes[1], T_WC=pose(1, 2, -3, 0.3, -1.2, 0.7), scale=1.7)
    fx, fy, cx, cy = INTRINSICS
    now = replace(scene, intrinsics=(focal * fx, focal * fy * 1.01, cx, cy))
    X = view.vertices["X"].astype(float)
    sent = np.stack([(X[:, 0] - cx * X[:, 2]) / fx, (X[:, 1] - cy * X[:, 2]) / fy, X[:, 2]], 1)
    M = place_matrix(keyframe_place(view, 2.5, INTRINSICS, now.intrinsics))
    truth = X @ now.matrix(view)[:3, :3].T + now.matrix(view)[:3, 3]
    assert np.allclose(sent / 2.5 @ M[:3, :3].T + M[:3, 3], truth, atol=1e-9)


def world_points(shown: WebMap, number: int) -> np.ndarray:
    """Where a browser draws the points of a keyframe."""
    handle = shown._blocks[number].handle
    place = replace(
        shown._blocks[number].place,
        position=handle.position,
        wxyz=handle.wxyz,
        scale=handle.scale,
    )
    M = place_matrix(place)
    return handle.points.astype(float) @ M[:3, :3].T + M[:3, 3]


def test_a_correction_moves_points_and_sends_none(server: Server) -> None:
    from slam.viewer.colors import DARK

    shown, choice, scene = WebMap(server.scene, DARK), Choice(0, 10**6, 1.0), scene_of(3)
    shown.show(scene, choice)
    sent = shown.sent
    assert sent == scene.points
    moved = replace(scene.keyframes[1], T_WC=pose(1, 2, -3, 0.3, -1.2, 0.7), scale=1.7)
    corrected = replace(scene, keyframes=(scene.keyframes[0], moved, scene.keyframes[2]))
    before = world_points(shown, 0)
    shown.show(corrected, choice)
    assert shown.sent == sent
    M = corrected.matrix(moved)
    truth = moved.vertices["X"] @ M[:3, :3].T + M[:3, 3]
    assert np.abs(world_points(shown, 1) - truth).max() < 2e-3 * 2 * 1.7  # halves, depth 2
    assert np.array_equal(world_points(shown, 0), before)
    shown.show(replace(corrected, keyframes=corrected.keyframes[:1]), choice)
    assert set(shown._blocks) == {0}


def test_least_confidence_and_budget_choose_points(server: Server) -> None:
    from slam.viewer.colors import DARK

    shown, scene = WebMap(server.scene, DARK), scene_of(4)
    shown.show(scene, Choice(100, 10**6, 1.0))
    counts = [int((k.vertices["alpha"] >= 100).sum()) for k in scene.keyframes]
    assert [len(shown._blocks[n].handle.points) for n in range(4)] == counts
    shown.show(scene, Choice(100, sum(counts) // 3, 1.0))
    fewer = [len(shown._blocks[n].handle.points) for n in range(4)]
    assert sum(counts) / 3 / 1.5 < sum(fewer) <= sum(counts) / 3
    shown.show(scene, Choice(256, 10**6, 1.0))  # nothing is
    assert sum(len(b.handle.points) for b in shown._blocks.values()) == 0


def test_a_growing_map_is_seldom_thinned_anew() -> None:
    shares = {fair_share(count, 1000) for count in range(1, 100_000)}
    assert len(shares) <= 15
    assert all(fair_share(n, 1000) * n <= 1000 for n in range(1, 100_000))
    assert all(fair_share(n, 1000) * n > 700 for n in range(1000, 100_000))


# --- pictures -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A headless Chromium."""
    if executable() is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


class Shown:
    """A page, and the thread that shows things: this one."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.events = SimpleQueue[Event]()
        self.page = WebPage(server, self.events.put, 0.0, live=False)

    def heed_until(self, wanted: Callable[[], bool]) -> None:
        """Deals with events until something holds."""
        end = time.monotonic() + PATIENCE
        while not wanted():
            try:
                self.page.heed(self.events.get(timeout=end - time.monotonic()))
            except Empty:
                pytest.fail("nothing happened")


def two_colors() -> Scene:
    """A keyframe at the origin that sees a plane at depth 2: red on its left, blue on its right."""
    grid = Grid(*SIZE, 1)
    made = keyframe(0, pose(0, 0, 0, 0, 0, 0))
    scene = SceneBuilder(Grid(*SIZE, 4)).build(Snapshot((made,), (), (), INTRINSICS))
    pixel = grid.pixel.numpy()
    rgb = np.where(pixel[:, :1] < INTRINSICS[2], (255, 0, 0), (0, 0, 255)).astype(np.uint8)
    vertices = point_vertices(pixel, np.full(len(pixel), 0.5), np.full(len(pixel), 1e5), rgb)
    view = replace(scene.keyframes[0], vertices=vertices)
    return replace(scene, keyframes=(view,), stride=1)


def is_red(picture: np.ndarray) -> np.ndarray:
    """[H, W] bool."""
    return (picture[..., 0] > 200) & (picture[..., 1:] < 60).all(-1)


def is_blue(picture: np.ndarray) -> np.ndarray:
    """[H, W] bool."""
    return (picture[..., 2] > 200) & (picture[..., :2] < 60).all(-1)


def border(picture: np.ndarray) -> float:
    """Column where red meets blue in the middle rows; nan where there is no such place."""
    rows = slice(picture.shape[0] // 2 - 20, picture.shape[0] // 2 + 20)
    red = np.flatnonzero(is_red(picture)[rows].any(0))
    blue = np.flatnonzero(is_blue(picture)[rows].any(0))
    if not len(red) or not len(blue) or abs(int(blue[0]) - int(red[-1])) > 6:
        return float("nan")
    return (float(red[-1]) + float(blue[0])) / 2


def test_points_are_drawn_where_they_are_and_move_with_their_keyframe(
    server: Server, browser: Chromium
) -> None:
    shown = Shown(server)
    for layer in ("keyframes", "path", "edges", "loops", "camera"):
        shown.page.map.set_layer(layer, visible=False)
    with browser.page() as tab:
        tab.open(f"http://127.0.0.1:{server.get_port()}/")
        shown.heed_until(lambda: shown.page.watched)
        shown.page.show(two_colors())
        (client,) = server.get_clients().values()
        camera = client.camera
        with client.atomic():  # at the keyframe, half a turn of its image to the left
            camera.up_direction = (0, -1, 0)
            camera.position, camera.look_at = (0.4, 0, 0), (0.4, 0, 2)
        picture = tab.picture_where(lambda p: np.isfinite(border(p)))
        focal = picture.shape[0] / 2 / np.tan(camera.fov / 2)
        middle = picture.shape[1] / 2
        left = (INTRINSICS[2] - 0.5 - INTRINSICS[2]) / INTRINSICS[0] * 2  # of the first blue one
        expected = middle + focal * (left - 0.4) / 2
        assert abs(border(picture) - expected) < 6, (border(picture), expected)
        sent, before = shown.page.map.sent, border(picture)

        scene = two_colors()
        known = shown.page.scene
        assert known is not None
        moved = replace(known.keyframes[0], T_WC=pose(-0.2, 0, 0, 0, 0, 0))
        shown.page.show(replace(scene, keyframes=(moved,)))
        gone = tab.picture_where(lambda p: abs(border(p) - before + focal * 0.1) < 4)
        assert abs(border(gone) - before + focal * 0.1) < 4, (before, border(gone))
        assert shown.page.map.sent == sent
        assert not tab.errors
        asked = {urlsplit(a).hostname for a in tab.addresses if a.startswith(("http", "ws"))}
        assert asked == {"127.0.0.1"}  # it works without a network


def test_a_browser_that_comes_late_sees_all_and_several_may_come(
    server: Server, browser: Chromium
) -> None:
    shown = Shown(server)
    shown.page.show(two_colors())
    shown.page.panel.say("all is well")
    address = f"http://127.0.0.1:{server.get_port()}/"
    with browser.page() as one, browser.page() as other:
        for count, tab in enumerate((one, other), start=1):
            tab.open(address)
            shown.heed_until(lambda count=count: len(server.get_clients()) == count)
        while not shown.events.empty():
            shown.page.heed(shown.events.get())
        for tab in (one, other):
            picture = tab.picture_where(lambda p: is_red(p).sum() > 500 and is_blue(p).sum() > 500)
            assert is_red(picture).sum() > 500 and is_blue(picture).sum() > 500
            assert "all is well" in tab.evaluate("document.body.innerText")
    shown.heed_until(lambda: not shown.page.watched)


@pytest.mark.slow
def test_a_view_follows_the_camera(server: Server, browser: Chromium) -> None:
    shown = Shown(server)
    scene = two_colors()
    shown.page.show(scene)
    with browser.page() as tab:
        tab.open(f"http://127.0.0.1:{server.get_port()}/")
        shown.heed_until(lambda: shown.page.watched)
        (client,) = server.get_clients().values()
        image, T_WC = np.zeros((60, 80, 3), np.uint8), pose(1, 0.1, 2, 0, 0.5, 0)
        before = client.camera.position.copy()
        shown.page.show_camera(T_WC, image)
        assert np.array_equal(client.camera.position, before)
        tab.text_where(lambda text: "follow the camera" in text)
        boxes = "[...document.querySelectorAll('input[type=checkbox]')]"
        tab.evaluate(f"{boxes}.find(box => box.offsetParent).click()")  # the first that is seen
        tab.text_where(lambda _: shown.page.follows(client.client_id))
        for _ in range(40):
            shown.page.show_camera(T_WC, image)
        forward = pose_matrix(T_WC)[:3, 2]
        out = (client.camera.position - T_WC[:3]) @ forward
        assert -1.5 * scene.depth < out < -0.3 * scene.depth  # behind it
        assert np.allclose(client.camera.look_at, T_WC[:3] + scene.depth * forward, atol=0.1)


@pytest.mark.slow
def test_another_site_cannot_lend_the_page_its_own_websocket(
    server: Server, browser: Chromium
) -> None:
    shown = Shown(server)
    with socket.create_server(("127.0.0.1", 0)) as other, browser.page() as tab:
        other.settimeout(5)
        lent = f"ws://127.0.0.1:{other.getsockname()[1]}"
        tab.open(f"http://127.0.0.1:{server.get_port()}/?websocket={lent}")
        with pytest.raises(TimeoutError):
            other.accept()
    assert not shown.page.watched


def test_the_token_in_the_address_is_enough_for_a_browser(
    browser: Chromium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLAM_WEB_TOKEN", TOKEN)
    door = open_door(Address(port=0))
    with serving(door) as server, browser.page() as tab:
        shown = Shown(server)
        tab.open(door.url.partition("?")[0])
        assert "wanted the token" in tab.evaluate("document.body.innerText")
        tab.open(door.url)
        shown.heed_until(lambda: shown.page.watched)
        assert TOKEN not in tab.evaluate("document.cookie")


# --- runs -----------------------------------------------------------------------------------------


class Watched:
    """A run with a page that one browser has open; a script is played in the browser's thread."""

    def __init__(self, browser: Chromium, script: Callable[[Page, WebLive], None]) -> None:
        self._browser, self._script = browser, script
        self._addresses = SimpleQueue[str]()
        self._failure: BaseException | None = None
        self.live: WebLive | None = None

    def run(self, source: Path, out: Path) -> RunResult:
        """The run; it waits until the page is open, the page stays until the script is over."""
        thread = threading.Thread(target=self._browse)
        thread.start()
        config, address = small_config(source, out), Address(port=0)
        result = run_in_browser(
            config, lambda _: None, address, self._addresses.put, stay=True, opened=self._hold
        )
        thread.join()
        if self._failure is not None:
            raise self._failure
        return result

    def _hold(self, live: WebLive) -> None:
        self.live = live
        live.watcher.pause(True)

    def _browse(self) -> None:
        url = self._addresses.get(timeout=PATIENCE)
        assert self.live is not None
        try:
            with self._browser.page() as tab:
                tab.open(url)
                tab.text_where(lambda text: "Connected" in text)
                self.live.watcher.pause(False)
                self._script(tab, self.live)
        except BaseException as error:  # raised by `run`
            self._failure = error
        finally:
            self.live.watcher.stop()
            self.live.watcher.interrupt()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without a viewer, on `cut` beside it."""
    folder = tmp_path_factory.mktemp("alone")
    return run(small_config(cut_sample(folder / "cut", range(30)), folder / "out")).folder


def expect_same(one: Path, other: Path) -> None:
    """Two runs found the same, to the bit."""
    for name in ("trajectory.txt", "trajectory_causal.txt", "map.ply"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


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
def test_buttons_pause_save_and_stop_the_run(browser: Chromium, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def frames(live: WebLive) -> int:
        return 0 if live.watcher.latest is None else live.watcher.latest.frames

    def script(tab: Page, live: WebLive) -> None:
        tab.text_where(lambda text: "tracked" in text)
        tab.click("Pause")
        tab.text_where(lambda text: "Go on" in text)
        time.sleep(1)  # it was in the middle of an image
        paused = frames(live)
        tab.click("Save now")
        tab.text_where(lambda text: "saved" in text)
        assert frames(live) == paused + 1 and (out / "map.ply").is_file()
        tab.click("Step")
        time.sleep(1)
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
