"""How a figure grows with the number of keyframes: means before chosen numbers, and the slope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slam.timing import Timings

SPAN = 25  # keyframes that a mean is over: those before the number
SETTLED = 12  # keyframes until a window of keyframes is full
FEWEST = 8  # points that a slope is fitted to
PREFIX = "backend "  # of the stages that run once for a keyframe


@dataclass(frozen=True, slots=True)
class Growth:
    """Milliseconds a keyframe of one stage, or of all together."""

    stage: str
    means: dict[int, float]  # number of keyframes → ms, mean over the SPAN keyframes before
    slope: float | None  # ms per 100 keyframes, least squares from SETTLED on; None = too few

    def to_dict(self) -> dict[str, object]:
        means = {str(number): value for number, value in self.means.items()}
        return {"stage": self.stage, "mean_ms": means, "slope_ms_per_100": self.slope}


def backend_growth(timings: Timings, marks: Sequence[int]) -> list[Growth]:
    """Of each stage of the backend that runs once a keyframe, and of all of them together.

    A keyframe of a start that was discarded counts as its successor with the same number.
    """
    stages = [name for name in timings.stages() if name.startswith(PREFIX)]
    by_stage = {name: dict(timings.calls(name)) for name in stages}
    total: dict[int, float] = {}
    for calls in by_stage.values():
        for number, milliseconds in calls.items():
            total[number] = total.get(number, 0.0) + milliseconds
    every = {name.removeprefix(PREFIX): calls for name, calls in by_stage.items()}
    return [_growth(name, calls, marks) for name, calls in (every | {"together": total}).items()]


def _growth(stage: str, calls: Mapping[int, float], marks: Sequence[int]) -> Growth:
    last = max(calls, default=-1)
    means = {}
    for mark in marks:
        near = [calls[n] for n in range(max(0, mark - SPAN), mark) if n in calls]
        if mark <= last + 1 and near:
            means[mark] = float(np.mean(near))
    late = sorted((n, ms) for n, ms in calls.items() if n >= SETTLED)
    line = slope(late)
    return Growth(stage, means, None if line is None else 100 * line)


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Slope of the least-squares line through (x, y); None for too few points."""
    if len(points) < FEWEST:
        return None
    x, y = np.array(points, np.float64).T
    return float(np.polyfit(x, y, 1)[0])
