"""Rendering: exact depth, views that agree, and the bundled sample that is made with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from slam import rendering
from slam.rendering import Lamp, Scene, SceneBuilder, pose, render, render_depth, standing
from slam.rendering.render import Intrinsics
from slam.rendering.sample import (
    DEPTH_FRAMES,
    DEPTH_UNITS,
    FRAMES,
    HEIGHT,
    INTRINSICS,
    NOISE,
    WIDTH,
)
from slam.rendering.texture import Texture, flat, mottled

SAMPLE = Path(__file__).parent.parent / "datasets" / "sample"
CAMERA = (100.0, 110.0, 63.0, 46.0)  # fx, fy, cx, cy: all different, so that a mix-up shows
SIZE = (128, 96)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device"))]  # fmt: skip

Vector = Sequence[float] | np.ndarray
Furnish = Callable[[SceneBuilder, int], object]


def rays(intrinsics: Intrinsics, width: int, height: int) -> np.ndarray:
    """Directions (x, y, 1) of all pixels, [H, W, 3] float64, written out once more."""
    fx, fy, cx, cy = intrinsics
    v, u = np.mgrid[:height, :width].astype(float)
    return np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1)


def camera_at(centre: Vector, target: Vector) -> Tensor:
    direction = np.array(target, float) - np.array(centre, float)
    return pose(rendering.looking_along(direction), np.array(centre, float))


def one(add: Furnish) -> SceneBuilder:
    """A scene of what `add(builder, texture)` puts into it, in one grey."""
    build = SceneBuilder()
    add(build, build.paint(lambda: flat((0.5, 0.5, 0.5))))
    return build


@pytest.fixture(scope="module")
def room() -> Scene:
    return rendering.textured_room(1)


@pytest.fixture(scope="module")
def sample_scene() -> Scene:
    return rendering.sample_room()


def test_depth_of_a_slanted_plane_is_exact() -> None:
    T_WC = pose(cv2.Rodrigues(np.array([0.2, -0.35, 0.1]))[0], np.array([0.3, -0.2, -2.5]))
    depth = render_depth(tuple(_plane().surfaces), CAMERA, *SIZE, T_WC).numpy()
    direction = rays(CAMERA, *SIZE) @ T_WC[:3, :3].numpy().T
    expected = 2.5 / direction[..., 2]  # the plane z = 0, 2.5 m in front
    assert np.abs(depth / expected - 1).max() < 1e-5


def _plane() -> SceneBuilder:
    facing = pose(np.diag([1.0, -1.0, -1.0]), np.zeros(3))
    return one(lambda build, grey: build.rectangle(facing, 50, 50, grey))


@pytest.mark.parametrize("distance, radius", [(0.5, 0.4), (4.0, 0.5), (4.0, 0.05)])
def test_depth_of_a_sphere_is_exact_and_nothing_is_seen_beside_it(
    distance: float, radius: float
) -> None:
    centre = np.array([0.1, -0.05, distance])
    build = one(lambda build, grey: build.sphere(centre, radius, grey))
    depth = render_depth(tuple(build.surfaces), CAMERA, *SIZE, torch.eye(4)).numpy()
    d = rays(CAMERA, *SIZE)
    dd, od, oo = (d * d).sum(-1), d @ centre, centre @ centre
    discriminant = od**2 - dd * (oo - radius**2)
    clear = np.abs(discriminant) > 1e-5  # rays that graze the outline may go either way
    hit = discriminant > 0
    expected = np.where(hit, (od - np.sqrt(np.maximum(discriminant, 0))) / dd, 0)
    assert hit.sum() > 3
    assert np.abs(depth - expected)[clear].max() < 1e-4


def test_a_pole_is_a_cylinder_with_lids() -> None:
    build = one(lambda build, grey: build.cylinder(standing(0, 0, 0.5), 0.2, 1.0, grey))
    surfaces = tuple(build.surfaces)
    side = render_depth(surfaces, CAMERA, *SIZE, camera_at((2, 0, 0.5), (0, 0, 0.5))).numpy()
    assert side[46, 63] == pytest.approx(1.8, abs=1e-5)
    seen = np.flatnonzero(side[46])
    # The outline: rays that touch the circle, tan = r / sqrt(D^2 - r^2).
    assert (seen[-1] - seen[0]) / 2 == pytest.approx(100 * 0.2 / np.sqrt(4 - 0.04), abs=0.6)
    above = render_depth(surfaces, CAMERA, *SIZE, camera_at((0.001, 0, 3), (0, 0, 1))).numpy()
    assert above[46, 63] == pytest.approx(2.0, abs=1e-4)


def test_a_box_hides_what_is_behind_it_and_a_room_is_seen_from_inside() -> None:
    def furnish(build: SceneBuilder, grey: int) -> None:
        build.box(standing(0, 0, 0), (6, 4, 3), [grey], inside=True)
        build.box(standing(1.5, 0, 0), (1, 1, 1), [grey])

    surfaces = tuple(one(furnish).surfaces)
    depth = render_depth(surfaces, CAMERA, *SIZE, camera_at((-1, 0, 0), (3, 0, 0))).numpy()
    assert (depth > 0).all()
    assert depth[46, 63] == pytest.approx(2.0, abs=1e-5)  # the small box's near face
    assert depth[46, 120] == pytest.approx(2 / 0.57, abs=1e-4)  # the right wall, 2 m aside
    assert depth[2, 63] == pytest.approx(1.5 / 0.4, abs=1e-4)  # the ceiling, 1.5 m up


def test_left_and_up_of_a_picture_are_left_and_up_in_the_image() -> None:
    build = SceneBuilder()

    def corner_mark() -> Texture:
        texture = flat((0.1, 0.1, 0.1))
        texture.albedo[:8, :8] = 0.9  # upper left as painted
        return texture

    facing = pose(np.diag([1.0, -1.0, -1.0]), np.zeros(3))
    build.rectangle(facing, 1.0, 1.0, build.paint(corner_mark))
    T_WC = pose(np.eye(3), np.array([0, 0, -1.2]))
    rgb = render(build.scene(), CAMERA, *SIZE, T_WC).rgb
    assert rgb[26, 43].min() > 2 * rgb[26, 83].max()
    assert rgb[26, 43].min() > 2 * rgb[66, 43].max()


@pytest.mark.parametrize("device", DEVICES)
def test_two_views_agree_in_colour_where_depth_says_they_see_the_same(
    room: Scene, device: str
) -> None:
    views = [camera_at((1.2, 0.9, 1.3), (3.0, 4.0, 1.2)), camera_at((1.7, 0.8, 1.5), (2.7, 4, 1))]
    intrinsics, width, height = (260.0, 265.0, 158.0, 121.0), 320, 240
    scene = room.to(device)
    first, second = (render(scene, intrinsics, width, height, view) for view in views)
    landed, visible = _reproject(first.depth, second.depth, views, intrinsics)
    warped = cv2.remap(second.rgb.cpu().numpy(), landed, None, cv2.INTER_LINEAR)
    error = np.abs(warped - first.rgb.cpu().numpy()).mean(-1)[visible]
    still = (second.rgb - first.rgb).abs().mean(-1).cpu().numpy()[visible]
    assert visible.mean() > 0.5
    assert np.median(error) < 0.012 < 0.2 * still.mean()


def _reproject(
    depth_a: Tensor, depth_b: Tensor, views: list[Tensor] | Tensor, intrinsics: Intrinsics
) -> tuple[np.ndarray, np.ndarray]:
    """Where a's pixels land in b [H, W, 2], and which of them b sees too."""
    fx, fy, cx, cy = intrinsics
    T_ba = (torch.linalg.inv(views[1]) @ views[0]).numpy()
    height, width = depth_a.shape
    X_a = rays(intrinsics, width, height) * depth_a.cpu().numpy()[..., None]
    X_b = X_a @ T_ba[:3, :3].T + T_ba[:3, 3]
    landed = np.stack([fx * X_b[..., 0], fy * X_b[..., 1]], -1) / X_b[..., 2:] + (cx, cy)
    landed = landed.astype(np.float32)
    there = cv2.remap(depth_b.cpu().numpy(), landed, None, cv2.INTER_NEAREST)
    inside = ((landed > 1) & (landed < (width - 2, height - 2))).all(-1)
    return landed, inside & (np.abs(there - X_b[..., 2]) < 0.02 * X_b[..., 2])


@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 7, 96, 1000])
def test_the_size_of_the_chunks_does_not_matter(room: Scene, rows: int) -> None:
    view = camera_at((1.2, 0.9, 1.3), (3.0, 4.0, 1.2))
    whole = render(room, CAMERA, *SIZE, view)
    parts = render(room, CAMERA, *SIZE, view, rows_per_chunk=rows)
    assert torch.allclose(whole.depth, parts.depth, rtol=1e-5)
    assert (whole.rgb - parts.rgb).abs().max() < 2e-3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_room_and_another_seed_another() -> None:
    view = camera_at((1.2, 0.9, 1.3), (3.0, 4.0, 1.2))
    first, again, other = (
        render(rendering.textured_room(seed), CAMERA, *SIZE, view).rgb for seed in (4, 4, 5)
    )
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.02


def test_an_untextured_room_has_depth_and_no_texture() -> None:
    view = camera_at((1.2, 0.9, 1.3), (3.0, 4.0, 1.2))
    seen = render(rendering.untextured_room(), CAMERA, *SIZE, view)
    slope = np.abs(np.diff(seen.rgb.numpy().mean(-1), axis=1))
    assert (seen.depth > 0).all()
    assert np.median(slope) < 0.004  # light fades smoothly; only the corners of the room show


def test_a_box_between_lamp_and_floor_casts_a_shadow() -> None:
    def furnish(build: SceneBuilder, grey: int) -> None:
        build.rectangle(standing(0, 0, 0), 4, 4, grey)
        build.box(standing(0, 0, 1.0), (0.8, 0.8, 0.1), [grey])

    build = one(furnish)
    lit = build.scene([Lamp((0.0, 0.0, 2.0), 1.0)], 0.2).light
    floor, s = torch.zeros(2, dtype=torch.int64), torch.tensor([2.0, 3.6])
    below, beside = lit.sample(floor, s, torch.tensor([2.0, 2.0])).tolist()
    assert below == pytest.approx(0.2, abs=0.03)
    assert beside > 1.5 * below


def test_texture_far_away_is_averaged_and_not_aliased() -> None:
    rng = np.random.default_rng(0)
    build = SceneBuilder()
    stone = build.paint(lambda: mottled(rng, (1, 1), (0.5, 0.5, 0.5), contrast=0.3))
    build.rectangle(pose(np.diag([1.0, -1.0, -1.0]), np.zeros(3)), 80, 80, stone)
    scene = build.scene()
    T_WC, factor = pose(np.eye(3), np.array([0, 0, -8.0])), 8
    fx, fy, cx, cy = CAMERA
    fine = (factor * fx, factor * fy, factor * (cx + 0.5) - 0.5, factor * (cy + 0.5) - 0.5)
    still = T_WC[None].expand(4, 4, 4)
    far = rendering.render_exposure(scene, CAMERA, *SIZE, still)
    many = rendering.render_exposure(scene, fine, factor * SIZE[0], factor * SIZE[1], still)
    exact = many.view(SIZE[1], factor, SIZE[0], factor, 3).mean((1, 3))
    assert (far - exact).std() < 0.3 * exact.std()
    assert abs(far.mean() - exact.mean()) < 0.01 * exact.mean()


def test_motion_during_the_exposure_blurs_about_the_middle(room: Scene) -> None:
    centre, ahead = np.array([1.2, 0.9, 1.3]), np.array([0.4, 1, 0])
    aside = np.linspace(-1, 1, 8)[:, None] * np.array([0.03, 0, 0])
    T_WC = torch.stack([camera_at(centre + step, centre + step + ahead) for step in aside])
    still = camera_at(centre, centre + ahead)[None].expand(8, 4, 4)
    sharp = rendering.render_exposure(room, CAMERA, *SIZE, still).mean(-1).numpy()
    blurred = rendering.render_exposure(room, CAMERA, *SIZE, T_WC).mean(-1).numpy()
    assert np.abs(np.diff(blurred)).mean() < 0.8 * np.abs(np.diff(sharp)).mean()
    shift, _ = cv2.phaseCorrelate(sharp.astype(np.float64), blurred.astype(np.float64))
    assert np.abs(shift).max() < 0.15


def test_a_spline_passes_its_way_points_and_looks_at_its_targets() -> None:
    times = np.array([0.0, 1.0, 2.5, 3.0])
    centres = np.array([[0, 0, 1], [1, 0.2, 1.1], [1.5, 1, 1], [1, 1.5, 1.2]])
    targets = centres + np.array([[1, 0, 0], [1, 1, 0.2], [0, 1, 0], [-1, 0.2, -0.3]])
    T = rendering.spline_trajectory(times, centres, targets).poses(times).numpy()
    assert np.allclose(T[:, :3, 3], centres)
    X_C = np.einsum("nji,nj->ni", T[:, :3, :3], targets - centres)
    assert np.allclose(X_C[:, :2], 0, atol=1e-12) and (X_C[:, 2] > 0).all()
    assert np.allclose(T[:, 2, 0], 0)  # level: the image's right is horizontal
    assert (T[:, 2, 1] < 0).all()  # and its down is down
    assert np.allclose(np.linalg.det(T[:, :3, :3]), 1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: render(s, (0.0, 1.0, 0.0, 0.0), 8, 8, torch.eye(4)), "fx, fy > 0"),
        (lambda s: render(s, CAMERA, 8, 8, torch.zeros(4, 4)), "rigid"),
        (lambda s: render(s, CAMERA, 8, 8, torch.eye(3)), "rigid"),
        (lambda s: render(s, CAMERA, 8, 8, torch.eye(4), rows_per_chunk=0), "at least 1 row"),
        (lambda s: rendering.spline_trajectory([0, 0], np.ones((2, 3)), np.ones((2, 3))), "incr"),
        (lambda s: rendering.looking_along(np.array([0.0, 0.0, 1.0])), "straight up"),
        (lambda s: rendering.render_sample_depth(FRAMES), "frames 0 to"),
        (lambda s: SceneBuilder().sphere((0, 0, 0), -1.0, 0), "positive"),
    ],
)
def test_bad_input_gives_one_clear_line(
    room: Scene, call: Callable[[Scene], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call(room)
    assert "\n" not in str(caught.value)


# The bundled sample.


def _list(name: str) -> list[list[str]]:
    lines = (SAMPLE / name).read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if not line.startswith("#")]


def test_the_sample_is_complete_and_small() -> None:
    images, depths, poses = _list("rgb.txt"), _list("depth.txt"), _list("groundtruth.txt")
    assert (len(images), len(depths), len(poses)) == (FRAMES, len(DEPTH_FRAMES), FRAMES)
    assert [row[0] for row in images] == [row[0] for row in poses]
    listed = {row[1] for row in images + depths}
    present = {str(file.relative_to(SAMPLE)) for file in SAMPLE.glob("*/*")}
    assert listed == present
    assert sum(file.stat().st_size for file in SAMPLE.rglob("*") if file.is_file()) < 12e6
    gaps = np.diff([float(row[0]) for row in images])
    assert np.abs(gaps - 1 / 30).max() < 2e-6


def test_the_samples_poses_are_the_trajectorys_and_its_way_is_a_loop() -> None:
    rows = np.array(_list("groundtruth.txt"), float)
    T_WC = rendering.sample_trajectory().poses(rows[:, 0] - 1000.0)
    assert np.allclose(np.linalg.norm(rows[:, 4:], axis=1), 1, atol=1e-8)
    exact = rendering.tum_poses(T_WC)
    sign = np.sign((exact[:, 3:] * rows[:, 4:]).sum(1, keepdims=True))
    assert np.abs(exact[:, :3] - rows[:, 1:4]).max() < 1e-5
    assert np.abs(sign * exact[:, 3:] - rows[:, 4:]).max() < 1e-5
    path = np.linalg.norm(np.diff(rows[:, 1:4], axis=0), axis=1).sum()
    forward = T_WC[:, :3, 2].numpy()
    assert 6 < path < 10
    assert np.linalg.norm(rows[0, 1:4] - rows[-1, 1:4]) < 0.1
    assert (forward @ forward[0]).min() < np.cos(np.radians(63))  # the first view leaves the image
    assert forward[-1] @ forward[0] > np.cos(np.radians(5))  # and comes back


def test_the_samples_calibration_is_the_cameras() -> None:
    text = (SAMPLE / "calibration.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == {
        "model": "pinhole",
        "width": WIDTH,
        "height": HEIGHT,
        "intrinsics": list(INTRINSICS),
        "distortion": [],
    }


@pytest.mark.parametrize("index", [0, 157])
def test_a_frame_of_the_sample_rendered_again_is_the_stored_one(
    sample_scene: Scene, index: int
) -> None:
    stored = cv2.cvtColor(cv2.imread(str(SAMPLE / _list("rgb.txt")[index][1])), cv2.COLOR_BGR2RGB)
    again = rendering.render_sample_image(sample_scene, index)
    assert stored.shape == (HEIGHT, WIDTH, 3)
    # JPEG leaves a few grey levels of error; another frame or another scene leaves tens.
    error = np.abs(stored.astype(float) - again)
    assert error.mean() < 2 * NOISE + 1.5
    assert abs(stored.mean() - again.mean()) < 0.5


def test_the_samples_depth_is_that_of_its_frames() -> None:
    index = DEPTH_FRAMES[4]
    stored = cv2.imread(str(SAMPLE / _list("depth.txt")[4][1]), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16 and stored.shape == (240, 320)
    full = rendering.render_sample_depth(index).numpy()
    # A stored pixel lies between four of the frame's: their mean, but for edges.
    mean = full.reshape(240, 2, 320, 2).mean((1, 3))
    assert np.median(np.abs(stored / DEPTH_UNITS - mean)) < 2e-4


def test_flow_between_frames_of_the_sample_is_measurable() -> None:
    """Exact flow from depth and poses against OpenCV's DIS on the stored images."""
    index, names = 60, [row[1] for row in _list("rgb.txt")]
    grey = [cv2.imread(str(SAMPLE / names[index + k]), cv2.IMREAD_GRAYSCALE) for k in (0, 1)]
    depth = [rendering.render_sample_depth(index + k) for k in (0, 1)]
    views = rendering.sample_trajectory().poses(np.array([index, index + 1]) / 30)
    landed, visible = _reproject(*depth, views, INTRINSICS)
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    error = np.linalg.norm(flow - (landed - np.stack([u, v], -1)), axis=-1)[visible]
    assert np.median(error) < 0.3
