"""The report images: of a run (map, view, path, error over time), and of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from slam.evaluation.alignment import transform_points, transform_trajectory
from slam.evaluation.evaluate import EvaluationResult
from slam.evaluation.keyframe_depth import KeyframeDepthResult
from slam.evaluation.panels import (
    INK,
    background_rgb,
    draw_colored_path,
    draw_depth_errors,
    draw_errors,
    draw_map_from_above,
    draw_path,
    draw_progress,
    draw_view,
    time_spans,
    write_note,
)
from slam.evaluation.scene_view import render_map, up_direction
from slam.trajectory import Trajectory, write_atomically

DPI = 120
MOST_POINTS = 1_000_000  # drawn; of more, every n-th
PICTURE = (1280, 720)  # px, of the map alone
JPEG_QUALITY = 82
SCALE_FREE = "map units"


def plot_run(
    path: Path,
    *,
    title: str,
    estimate: Trajectory,
    states: Sequence[str] | None,
    ground_truth: Trajectory | None,
    result: EvaluationResult | None,
    points: np.ndarray,
    colors: np.ndarray,
    keyframe_positions: np.ndarray,
) -> None:
    """Writes a run's report as one PNG of 1920 x 1320 px.

    Estimate, points and keyframes share one right-handed world; with a result they are drawn after
    its alignment, in metres of the ground truth, which must be right-handed too.

    Args:
        path: the PNG; appears complete or not at all.
        states: a TrackState value for each pose of the estimate, or None.
        ground_truth, result: both or neither.
        points: [N, 3], N >= 0. colors: [N, 3] uint8. keyframe_positions: [K, 3], K >= 0.
    Raises ValueError for shapes or numbers that do not belong together.
    """
    _require_run(estimate, ground_truth, result, points, colors, keyframe_positions)
    counts = f"{len(estimate)} poses, {len(keyframe_positions)} keyframes, {len(points):,} points"
    facts = counts if result is None else f"{_result_facts(result)}   ·   {counts}"
    shown = slice(None, None, max(1, -(-len(points) // MOST_POINTS)))
    points, colors = points[shown], colors[shown]
    unit = SCALE_FREE if result is None else "m"
    if result is not None:
        estimate = transform_trajectory(result.T_true_est, estimate)
        points = transform_points(result.T_true_est, points)
        keyframe_positions = transform_points(result.T_true_est, keyframe_positions)
    figure = _figure(title, facts, (16, 11))
    grid = figure.add_gridspec(
        2, 2, height_ratios=[1.45, 1], left=0.06, right=0.985, bottom=0.06, top=0.875,
        hspace=0.24, wspace=0.13,
    )  # fmt: skip
    above, view, plan, lower = [figure.add_subplot(grid[k // 2, k % 2]) for k in range(4)]
    if len(estimate) == 0:
        for axes in (above, view, plan, lower):
            write_note(axes, "no poses")
        return _save(figure, path)
    draw_map_from_above(above, points, colors, estimate, keyframe_positions, unit)
    draw_view(view, points, colors, estimate)
    draw_path(plan, estimate, _meanwhile(ground_truth, estimate), unit)
    spans = time_spans(estimate.times, states)
    if result is None:
        draw_progress(lower, estimate, up_direction(estimate), unit, spans)
    else:
        rmse = float(np.sqrt(np.mean(result.errors**2)))
        draw_errors(lower, result.estimate.times, result.errors, rmse, spans)
    _save(figure, path)


def plot_evaluation(path: Path, result: EvaluationResult, *, title: str) -> None:
    """Writes the matched paths, coloured by error, and the error over time as a PNG."""
    figure = _figure(title, _result_facts(result), (16, 7.5))
    grid = figure.add_gridspec(
        1, 2, width_ratios=[1.1, 1], left=0.055, right=0.985, bottom=0.09, top=0.82, wspace=0.22
    )
    plan, lower = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
    colored = draw_colored_path(plan, result.estimate, result.ground_truth, result.errors)
    figure.colorbar(colored, ax=plan, label="position error [m]", fraction=0.04, pad=0.02)
    rmse = float(np.sqrt(np.mean(result.errors**2)))
    spans = time_spans(result.estimate.times, None)
    draw_errors(lower, result.estimate.times, result.errors, rmse, spans)
    _save(figure, path)


def plot_depth_errors(path: Path, result: KeyframeDepthResult, *, title: str) -> None:
    """Writes the median depth error over coverage, beside the best possible one, as a PNG."""
    errors = result.errors
    facts = (
        f"median relative error {errors.median_relative:.4f} on {100 * errors.coverage:.1f} % "
        f"(confidence ≥ {result.threshold:g})   ·   {result.keyframes} keyframes"
    )
    figure = _figure(title, facts, (10, 6.5))
    axes = figure.add_axes((0.09, 0.11, 0.88, 0.7))
    draw_depth_errors(axes, result.curve, errors.coverage, errors.median_relative)
    _save(figure, path)


def write_map_picture(
    path: Path, points: np.ndarray, colors: np.ndarray, estimate: Trajectory
) -> None:
    """Writes the map [N, 3] seen from behind one of the path's poses as a JPEG, PICTURE px."""
    width, height = PICTURE
    image = np.broadcast_to(background_rgb(), (height, width, 3))
    shown = slice(None, None, max(1, -(-len(points) // MOST_POINTS)))
    if len(points) and len(estimate):
        image, _ = render_map(points[shown], colors[shown], estimate, PICTURE, background_rgb())
    bgr = np.ascontiguousarray(image[..., ::-1])
    _, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    write_atomically(path, content.tobytes())


def _figure(title: str, facts: str, size: tuple[float, float]) -> Figure:
    """An empty figure with its title and a line of facts, without matplotlib's global state."""
    figure = Figure(figsize=size, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    top = 1 - 0.28 / size[1]
    figure.text(0.055, top, title, fontsize=18, fontweight="bold", color=INK, va="top")
    figure.text(0.055, top - 0.42 / size[1], facts, fontsize=12, color="#4a5563", va="top")
    return figure


def _save(figure: Figure, path: Path) -> None:
    content = BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())


def _result_facts(result: EvaluationResult) -> str:
    facts = [f"ATE RMSE {result.ate_sim3.rmse:.4f} m (Sim(3))"]
    if result.rotation is not None:
        facts.append(f"rotation {result.rotation.rmse:.2f}°")
    facts.append(f"path {result.path_length:.2f} m")
    facts.append(f"scale (true/estimated) {result.scale:.4g}")
    if result.completeness is not None:
        facts.append(f"{100 * result.completeness.fraction:.1f} % of frames posed")
    return "   ·   ".join(facts)


def _meanwhile(ground_truth: Trajectory | None, estimate: Trajectory) -> Trajectory | None:
    """The true path from the estimate's first pose to its last; None where there is none."""
    if ground_truth is None:
        return None
    times = ground_truth.times
    within = (times >= estimate.times[0]) & (times <= estimate.times[-1])
    return ground_truth.select(within) if within.any() else None


def _require_run(
    estimate: Trajectory,
    ground_truth: Trajectory | None,
    result: EvaluationResult | None,
    points: np.ndarray,
    colors: np.ndarray,
    keyframe_positions: np.ndarray,
) -> None:
    if (ground_truth is None) != (result is None):
        raise ValueError("plot_run wants ground truth and its evaluation result, or neither")
    if result is not None and len(estimate) == 0:
        raise ValueError("plot_run wants the evaluated estimate, got one without poses")
    if points.ndim != 2 or points.shape[1] != 3 or colors.shape != points.shape:
        raise ValueError(
            f"plot_run wants points [N, 3] and colors [N, 3], got {points.shape}, {colors.shape}"
        )
    if keyframe_positions.ndim != 2 or keyframe_positions.shape[1] != 3:
        raise ValueError(f"plot_run wants keyframes [K, 3], got {keyframe_positions.shape}")
