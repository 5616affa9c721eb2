"""What the web viewer sends, and how it looks in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("viser", reason="viser is not installed: pip install '.[web]'")

from chromium import Chromium
from viewer_scenes import INTRINSICS, SIZE, keyframe, pose, scene_of
from web_pages import Shown

from slam.frame import Snapshot
from slam.predictors import Grid
from slam.viewer.colors import DARK
from slam.viewer.points import point_vertices, pose_matrix
from slam.viewer.scene import Scene, SceneBuilder
from slam.viewer.web_map import Choice, WebMap, fair_share, keyframe_place, place_matrix
from slam.viewer.web_server import Address, Server, open_door, serving


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


@pytest.mark.slow
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
        tab.tick("follow the camera")
        tab.text_where(lambda _: shown.page.follows(client.client_id))
        for _ in range(40):
            shown.page.show_camera(T_WC, image)
        forward = pose_matrix(T_WC)[:3, 2]
        out = (client.camera.position - T_WC[:3]) @ forward
        assert -1.5 * scene.depth < out < -0.3 * scene.depth  # behind it
        assert np.allclose(client.camera.look_at, T_WC[:3] + scene.depth * forward, atol=0.1)
