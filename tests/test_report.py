"""Report images: what is up, what is near, what is shaded; drawn for any run, however short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.spatial.transform import Rotation

from slam.evaluation import evaluate, transform_trajectory
from slam.evaluation.panels import draw_map_from_above, time_spans, with_gaps
from slam.evaluation.report import plot_evaluation, plot_run
from slam.evaluation.scene_view import ground_plane, up_direction
from slam.evaluation.splat import View, render_view
from slam.trajectory import Trajectory


def walk_around(pitch_down: float, arc: float) -> Trajectory:
    """A camera that walks an arc (rad) in a world with z up, looking outward and down (rad)."""
    headings = np.linspace(0, arc, 40)
    level = Rotation.from_matrix([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # x right, y down, z = world y
    turned = Rotation.from_rotvec(np.outer(headings, [0, 0, 1])) * level
    pitched = turned * Rotation.from_rotvec([-pitch_down, 0, 0])
    positions = np.stack([-np.sin(headings), np.cos(headings), 0 * headings], axis=1)
    return Trajectory(np.arange(40) / 10, np.concatenate([positions, pitched.as_quat()], axis=1))


def test_nearest_point_wins_and_lands_on_its_pixel() -> None:
    pose = np.array([1.0, 2, 3, 0, 0, 0, 1])
    view = View(pose, focal=100, width=41, height=31, nearest=0.1)
    X_C = np.array([[0.11, -0.055, 1.1], [0.2, -0.1, 2], [0, 0, -1]])
    colors = np.array([[200, 17, 3], [0, 255, 0], [0, 0, 255]], np.uint8)
    expected = np.zeros((31, 41, 3), np.uint8)
    expected[10, 30] = [200, 17, 3]
    for order in ([0, 1, 2], [2, 1, 0]):
        image = render_view(X_C[order] + pose[:3], colors[order], view, 1e-4, np.zeros(3, np.uint8))
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(("pitch_down", "arc"), [(0.0, 0.1), (0.0, 6.0), (0.6, 2.0), (0.9, 6.0)])
def test_up_is_found_where_the_camera_looks_down(pitch_down: float, arc: float) -> None:
    up = up_direction(walk_around(pitch_down, arc))
    assert up @ [0, 0, 1] > np.cos(np.radians(5))


def turn_world(trajectory: Trajectory, degrees: float) -> Trajectory:
    """The same walk in a world turned about its z axis (up)."""
    half = np.radians(degrees) / 2
    T = np.array([0, 0, 0, 0, 0, np.sin(half), np.cos(half), 1])
    return transform_trajectory(T, trajectory)


@pytest.mark.parametrize("degrees", [0, 45, 90, 180, 270])
def test_map_from_above_is_right_handed_and_away_is_up_the_page(degrees: float) -> None:
    trajectory = turn_world(walk_around(0.0, 0.1), degrees)
    turned = Rotation.from_rotvec([0, 0, np.radians(degrees)])
    points = turned.apply(np.random.default_rng(0).uniform([-2, 0, -1], [2, 4, 1], (5000, 3)))
    plane = ground_plane(trajectory, points)
    np.testing.assert_allclose(np.cross(plane.right, plane.away), plane.up, atol=1e-12)
    right_ahead = trajectory.positions[0] + turned.apply([1.0, 3.0, 0.5])
    np.testing.assert_allclose(plane.coordinates(right_ahead[None]), [[1, 3, 0.5]], atol=0.2)


def test_map_from_above_shows_what_is_ahead_at_the_top() -> None:
    figure = Figure(figsize=(4, 3), dpi=100)
    axes = figure.add_subplot()
    trajectory = walk_around(0.0, 0.1)
    points = np.random.default_rng(0).uniform([-3, 0, -1], [3, 4, 0], (20_000, 3))
    colors = np.full((20_000, 3), 90, np.uint8)
    far_right = (points[:, 0] > 1.5) & (points[:, 1] > 3)
    colors[far_right] = [255, 0, 0]
    draw_map_from_above(axes, points, colors, trajectory, np.zeros((0, 3)), "m")
    image = np.asarray(axes.images[0].get_array())
    rows, columns = np.nonzero(image[..., 0] > 200)
    assert rows.mean() < 0.3 * image.shape[0]
    assert columns.mean() > 0.6 * image.shape[1]


def cloud(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    points = generator.uniform(-3, 3, (count, 3)).astype(np.float32)
    return points, generator.integers(0, 256, (count, 3), dtype=np.uint8)


@pytest.mark.parametrize(("poses", "count"), [(0, 0), (1, 1), (2, 0), (2, 3000), (40, 1)])
def test_report_is_drawn_without_ground_truth(tmp_path: Path, poses: int, count: int) -> None:
    estimate = walk_around(0.3, 2.0).select(np.arange(poses))
    points, colors = cloud(count)
    plot_run(
        tmp_path / "report.png",
        title="a run",
        estimate=estimate,
        states=["tracked"] * poses,
        ground_truth=None,
        result=None,
        points=points,
        colors=colors,
        keyframe_positions=estimate.positions[::10],
    )
    assert imread(tmp_path / "report.png").shape == (1320, 1920, 4)


def draw(path: Path, estimate: Trajectory, truth: Trajectory, states: list[str]) -> None:
    points, colors = cloud(5000)
    plot_run(
        path,
        title="a run",
        estimate=estimate,
        states=states,
        ground_truth=truth,
        result=evaluate(estimate, truth),
        points=points,
        colors=colors,
        keyframe_positions=estimate.positions[::9],
    )


def test_reports_are_drawn_with_ground_truth_gaps_and_states(tmp_path: Path) -> None:
    truth = walk_around(0.3, 2.0)
    estimate = truth.select(np.r_[0:20, 26:40])
    states = ["pending"] * 5 + ["weak"] * 5 + ["tracked"] * 10 + ["relocalised"] * 14
    draw(tmp_path / "report.png", estimate, truth, states)
    plot_evaluation(tmp_path / "evaluation.png", evaluate(estimate, truth), title="a run")
    assert imread(tmp_path / "report.png").shape == (1320, 1920, 4)
    assert imread(tmp_path / "evaluation.png").std() > 0.05
    with pytest.raises(ValueError, match="one for each of 34 poses, got 20"):
        draw(tmp_path / "no.png", estimate, truth, states[:20])
    assert not (tmp_path / "no.png").exists()


def test_drawing_the_same_run_gives_the_same_file(tmp_path: Path) -> None:
    truth = walk_around(0.3, 2.0)
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, truth, truth, ["tracked"] * 40)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_spans_cover_runs_of_states_and_gaps() -> None:
    times = np.array([0.0, 1, 2, 3, 10, 11])
    states = ["pending", "tracked", "weak", "weak", "tracked", "lost"]
    assert time_spans(times, states) == [
        (-0.5, 0.5, "pending"),
        (1.5, 3.5, "weak"),
        (10.5, 11.5, "lost"),
        (3.0, 10.0, "gap"),
    ]
    rows = with_gaps(times, np.stack([times, times], axis=1))
    assert np.flatnonzero(np.isnan(rows[:, 0])).tolist() == [4]
