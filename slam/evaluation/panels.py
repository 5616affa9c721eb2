"""The panels of report images, drawn on matplotlib axes that the caller lays out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from slam.evaluation.depth import Sparsification
from slam.evaluation.metrics import path_distances
from slam.evaluation.scene_view import ground_plane, render_map
from slam.evaluation.splat import halve, splat
from slam.trajectory import Trajectory

INK = "#20262e"
TRUTH = "#aab4bf"
ESTIMATE = "#1668c7"
HEIGHT = "#c2410c"
PATH_ON_MAP = "#ffb000"
KEYFRAME = "#ffffff"
START = "#1a9850"
BACKGROUND = "#12161c"
SPANS = {  # how a state shades the time axis; other states do not
    "pending": ("#9ecae1", "before start-up"),
    "weak": ("#fdae61", "weak"),
    "lost": ("#d7301f", "lost"),
    "gap": ("#bdbdbd", "no pose"),
}
GAP = 3.5  # times the median interval: a longer one is a span without poses
CEILING_MARGIN = 0.15  # of the map's height: what is this far above the path is left out from above
LARGEST_CUT = 0.6  # of the points: where the ceiling's cut would take more, it is no ceiling
NEAREST_PATH = 0.4  # of the viewer's distance to its pose: path that is nearer is not drawn


def background_rgb() -> np.ndarray:
    """BACKGROUND as [3] uint8."""
    return np.array([int(BACKGROUND[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.uint8)


def draw_path(axes: Axes, estimate: Trajectory, truth: Trajectory | None, unit: str) -> None:
    """The path, over the true one, in the two coordinates it extends most in; equal axes."""
    across, along = widest_axes(estimate if truth is None else truth)
    if truth is not None:
        positions = with_gaps(truth.times, truth.positions)
        axes.plot(positions[:, across], positions[:, along], color=TRUTH, lw=3.5, label="true")
    positions = with_gaps(estimate.times, estimate.positions)
    axes.plot(positions[:, across], positions[:, along], color=ESTIMATE, lw=1.4, label="estimated")
    axes.plot(*positions[0, [across, along]], "o", color=START, ms=6, label="start", zorder=5)
    names = "xyz"
    axes.set_xlabel(f"{names[across]} [{unit}]")
    axes.set_ylabel(f"{names[along]} [{unit}]")
    axes.set_title("Path" if truth is None else "Path against the ground truth")
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.08)
    _finish_plot(axes)


def draw_colored_path(
    axes: Axes, estimate: Trajectory, truth: Trajectory, errors: np.ndarray
) -> LineCollection:
    """As draw_path, the estimate coloured by its error [N] m; returns what a colour bar needs."""
    draw_path(axes, estimate, truth, "m")
    corners = estimate.positions[:, widest_axes(truth)]
    joined = ~is_gap(estimate.times)
    pieces = np.stack([corners[:-1], corners[1:]], axis=1)[joined]
    colored = LineCollection(list(pieces), cmap="plasma", linewidths=2.2, zorder=4)
    colored.set_array(((errors[:-1] + errors[1:]) / 2)[joined])
    axes.lines[1].remove()
    axes.add_collection(colored)
    _finish_plot(axes)
    return colored


def draw_errors(
    axes: Axes,
    times: np.ndarray,
    errors: np.ndarray,
    rmse: float,
    spans: Sequence[tuple[float, float, str]],
) -> None:
    """Position error [N] m over time, its RMSE, and the spans of time_spans shaded."""
    clock, label = _clock(times)
    factor, unit = (100.0, "cm") if np.max(errors) < 1.0 else (1.0, "m")
    drawn = with_gaps(times, np.stack([clock, errors * factor], axis=1)).T
    axes.fill_between(*drawn, color=ESTIMATE, alpha=0.15, lw=0)
    axes.plot(*drawn, color=ESTIMATE, lw=1.2, label="position error")
    text = f"RMSE {rmse * factor:.3g} {unit}"
    axes.axhline(rmse * factor, color=INK, lw=1, ls=(0, (5, 3)), label=text)
    axes.set_xlabel(label)
    axes.set_ylabel(f"error [{unit}]")
    axes.set_title("Position error over time")
    axes.set_ylim(0, max(float(np.max(errors)) * factor * 1.2, 1e-9))
    _shade(axes, times, spans)
    _finish_plot(axes, in_one_row=True)


def draw_progress(
    axes: Axes,
    estimate: Trajectory,
    up: np.ndarray,
    unit: str,
    spans: Sequence[tuple[float, float, str]],
) -> None:
    """Without ground truth: distance from the start and height over time."""
    clock, label = _clock(estimate.times)
    offset = estimate.positions - estimate.positions[0]
    distance = np.linalg.norm(offset, axis=1)
    drawn = with_gaps(estimate.times, np.stack([clock, distance, offset @ up], axis=1)).T
    axes.plot(drawn[0], drawn[1], color=ESTIMATE, lw=1.4, label="from start")
    axes.plot(drawn[0], drawn[2], color=HEIGHT, lw=1.2, label="height")
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top + 0.18 * (top - bottom))
    travelled = path_distances(estimate.positions)[-1]
    axes.set_xlabel(label)
    axes.set_ylabel(f"[{unit}]")
    axes.set_title(f"Distance from the start and height (path of {travelled:.3g} {unit})")
    _shade(axes, estimate.times, spans)
    _finish_plot(axes, in_one_row=True)


def draw_map_from_above(
    axes: Axes,
    points: np.ndarray,
    colors: np.ndarray,
    estimate: Trajectory,
    keyframe_positions: np.ndarray,
    unit: str,
) -> None:
    """The coloured map from above, its ceiling cut off, with the path and the keyframes."""
    plane = ground_plane(estimate, points)
    path = plane.coordinates(estimate.positions)
    keyframes = plane.coordinates(keyframe_positions)
    cloud = plane.coordinates(points)
    kept = _below_ceiling(cloud[:, 2], path[:, 2])
    cloud, colors = cloud[kept], colors[kept]
    width, height = pixel_size(axes)
    low, high = _limits(cloud[:, :2], path[:, :2], width / height)
    scale = 2 * width / (high[0] - low[0])
    pixels = np.stack([cloud[:, 0] - low[0], high[1] - cloud[:, 1]], axis=1) * scale - 0.5
    depth = cloud[:, 2].max(initial=-np.inf) - cloud[:, 2] + 1.0
    edges = np.full(len(cloud), 3.0 if len(cloud) > 50_000 else 5.0)
    image = halve(splat(pixels, depth, colors, edges, (2 * height, 2 * width), background_rgb()))
    axes.imshow(image, extent=(low[0], high[0], low[1], high[1]), interpolation="nearest")
    axes.plot(*with_gaps(estimate.times, path[:, :2]).T, color=PATH_ON_MAP, lw=1.4, label="path")
    if len(keyframes):
        style = {"s": 12, "color": KEYFRAME, "edgecolors": INK, "linewidths": 0.6, "zorder": 4}
        axes.scatter(keyframes[:, 0], keyframes[:, 1], label="keyframes", **style)
    axes.plot(path[0, 0], path[0, 1], "o", color=START, mec="white", ms=7, label="start", zorder=5)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_xlabel(f"[{unit}]")
    axes.set_ylabel(f"[{unit}]")
    axes.set_title("Map from above")
    _legend(axes)


def draw_view(axes: Axes, points: np.ndarray, colors: np.ndarray, estimate: Trajectory) -> None:
    """The map as seen from behind one of the path's poses, with the path."""
    axes.set_title("Map seen from behind the camera")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(BACKGROUND)
    if len(points) == 0:
        write_note(axes, "no points in the map")
        return
    width, height = pixel_size(axes)
    image, view = render_map(points, colors, estimate, (width, height), background_rgb())
    axes.imshow(image, extent=(0, 2 * width, 2 * height, 0), interpolation="nearest")
    pixels, depth = view.project(estimate.positions)
    pixels[depth <= view.nearest * NEAREST_PATH] = np.nan
    axes.plot(*with_gaps(estimate.times, pixels).T, color=PATH_ON_MAP, lw=1.2, alpha=0.9)
    axes.set_xlim(0, 2 * width)
    axes.set_ylim(2 * height, 0)


def draw_depth_errors(axes: Axes, curve: Sparsification, coverage: float, median: float) -> None:
    """Median error over coverage, the best possible one, and where the default threshold lies."""
    covered = 100 * np.array(curve.coverage)
    axes.plot(covered, curve.median, color=ESTIMATE, lw=2, label="the most confident pixels")
    axes.plot(covered, curve.best_possible, color=TRUTH, lw=2, label="best possible order")
    axes.plot(100 * coverage, median, "o", color=START, ms=8, label="at the threshold", zorder=5)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, None)
    axes.set_xlabel("share of the sensor's valid pixels [%]")
    axes.set_ylabel("median relative depth error")
    axes.set_title("Depth error over coverage")
    _finish_plot(axes)


def time_spans(times: np.ndarray, states: Sequence[str] | None) -> list[tuple[float, float, str]]:
    """Spans (from, to, state) to shade: runs of states in SPANS, and gaps between poses.

    Args:
        times: [N] of the poses. states: N TrackState values, or None.
    Raises ValueError where the numbers differ.
    """
    if states is not None and len(states) != len(times):
        raise ValueError(f"states: wanted one for each of {len(times)} poses, got {len(states)}")
    if len(times) < 2:
        return []
    interval = float(np.median(np.diff(times)))
    spans = []
    labels = list(states) if states is not None else [""] * len(times)
    first = 0
    for row in range(1, len(labels) + 1):
        if row == len(labels) or labels[row] != labels[first]:
            if labels[first] in SPANS:
                end = times[row - 1] + interval / 2
                spans.append((float(times[first] - interval / 2), float(end), labels[first]))
            first = row
    for row in np.flatnonzero(is_gap(times)):
        spans.append((float(times[row]), float(times[row + 1]), "gap"))
    return spans


def is_gap(times: np.ndarray) -> np.ndarray:
    """Which of the N - 1 intervals between N >= 2 poses are spans without poses."""
    intervals = np.diff(times)
    return intervals > GAP * np.median(intervals)


def with_gaps(times: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows [N, D] with a row of nan in each span without poses, so that no line crosses it."""
    if len(times) < 2:
        return rows
    return np.insert(rows, np.flatnonzero(is_gap(times)) + 1, np.nan, axis=0)


def widest_axes(trajectory: Trajectory) -> list[int]:
    """The two coordinates that the path extends most in, the wider first."""
    extent = np.ptp(trajectory.positions, axis=0)
    return [int(axis) for axis in np.argsort(-extent, kind="stable")[:2]]


def write_note(axes: Axes, text: str) -> None:
    """A line in the middle of an empty panel."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=TRUTH)
    axes.set_xticks([])
    axes.set_yticks([])


def pixel_size(axes: Axes) -> tuple[int, int]:
    """Width and height of the axes on paper, px."""
    box = axes.get_window_extent()
    return max(1, round(box.width)), max(1, round(box.height))


def _below_ceiling(heights: np.ndarray, path_heights: np.ndarray) -> np.ndarray:
    """Mask of the points to draw from above: without what would hide the room under it."""
    if len(heights) == 0:
        return np.zeros(0, dtype=bool)
    low, high = np.percentile(heights, [2, 98])
    kept = heights <= path_heights.max() + CEILING_MARGIN * (high - low)
    return kept if kept.mean() > 1 - LARGEST_CUT else np.ones(len(heights), dtype=bool)


def _limits(cloud: np.ndarray, path: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """The corners of a box of that width / height around the path and most of the points."""
    low, high = path.min(axis=0), path.max(axis=0)
    if len(cloud):
        low = np.minimum(low, np.percentile(cloud, 1, axis=0))
        high = np.maximum(high, np.percentile(cloud, 99, axis=0))
    centre, half = (low + high) / 2, np.maximum((high - low) / 2 * 1.06, 1e-6)
    half = np.array([max(half[0], half[1] * ratio), max(half[1], half[0] / ratio)])
    return centre - half, centre + half


def _clock(times: np.ndarray) -> tuple[np.ndarray, str]:
    """What to write along the time axis: seconds from the start, or frame numbers."""
    if (times == np.round(times)).all():
        return times, "frame number"
    return times - times[0], "time [s]"


def _shade(axes: Axes, times: np.ndarray, spans: Sequence[tuple[float, float, str]]) -> None:
    start = times[0] - _clock(times)[0][0]
    named = set()
    for begin, end, state in spans:
        color, name = SPANS[state]
        label = None if state in named else name
        named.add(state)
        axes.axvspan(begin - start, end - start, color=color, alpha=0.35, lw=0, label=label)


def _finish_plot(axes: Axes, in_one_row: bool = False) -> None:
    axes.grid(color="#e3e7ec", lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _legend(axes, in_one_row)


def _legend(axes: Axes, in_one_row: bool = False) -> None:
    style = {"fontsize": 9, "framealpha": 0.85, "edgecolor": "none"}
    if in_one_row:
        axes.legend(loc="upper left", ncols=6, columnspacing=1.0, handlelength=1.2, **style)
    else:
        axes.legend(loc="best", **style)
