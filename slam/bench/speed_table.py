"""A SpeedResult as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from slam.bench.growth import SETTLED, SPAN
from slam.bench.speed import FRONTEND, Latency, SpeedResult, StageRow, rate

UNKNOWN = "-"
MINUTES = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30)  # of input, at which the memory is told


def format_speed(
    result: SpeedResult, full: SpeedResult | None = None, marks: Sequence[int] = ()
) -> str:
    """Stages, rates, memory, the backend's time by the number of keyframes, keyframe errors.

    Args:
        full: the same run with every keyframe in the window, to stand beside it.
        marks: numbers of keyframes that were asked for; those not reached are said.
    """
    parts = [
        _title(result),
        _stage_table(result.stages),
        "\n".join(_facts(result)),
        "\n".join(_memory(result)),
        _growth_table(result, marks),
        "\n".join(_errors(result, full)),
    ]
    return "\n\n".join(part for part in parts if part)


def _title(result: SpeedResult) -> str:
    turns = "" if result.passes == 1 else f" in {result.passes} passes"
    early = ", interrupted" if result.interrupted else ""
    return (
        f"{result.source}: {result.processed} of {result.frames} frames{turns}, "
        f"{result.keyframes} keyframes, {result.edges} edges, {result.threads} threads{early}"
    )


def _stage_table(rows: Sequence[StageRow]) -> str:
    width = max([len(row.stage) for row in rows] + [5])
    head = ("calls", "mean ms", "p50 ms", "p95 ms", "total s", "of loop")
    lines = [f"{'stage':<{width}}  {'thread':<9}" + "".join(f"{name:>10}" for name in head)]
    for row in rows:
        t = row.times
        share = "after it" if row.share is None else f"{100 * row.share:.1f} %"
        lines.append(
            f"{row.stage:<{width}}  {row.thread:<9}{t.count:>10}{t.mean_ms:>10.2f}"
            f"{t.p50_ms:>10.2f}{t.p95_ms:>10.2f}{t.total_s:>10.2f}{share:>10}"
        )
    shares = [row.share for row in rows if row.share is not None and row.thread == FRONTEND]
    rest = 100 * (1 - sum(shares))
    lines.append(f"{'(not in a stage)':<{width}}  {FRONTEND:<9}{rest:>58.1f} %")
    return "\n".join(lines)


def _facts(result: SpeedResult) -> list[str]:
    in_loop = rate(result.processed, result.loop_seconds)
    in_all = rate(result.processed, result.total_seconds)
    per_frame = 1e3 * result.cpu_seconds / max(result.processed, 1)
    lines = [
        f"rate           {in_loop:.2f} frames/s in the loop, {in_all:.2f} with the final "
        f"adjustment; {per_frame:.1f} ms of CPU time a frame in the loop",
        f"latency        {_latency(result.feed)} from the frontend's taking an image to its pose",
    ]
    if not result.realtime:
        lines.append(f"               {_latency(result.frontend)} without waiting for the backend")
        return lines
    share = 100 * (result.dropped or 0) / max(result.frames, 1)
    return [
        *lines,
        f"               {_latency(result.capture)} from when an image is due to its pose",
        f"dropped        {result.dropped} of {result.frames} images ({share:.1f} %)",
    ]


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return "unknown"
    return f"p50 {latency.p50_ms:.1f} ms, p95 {latency.p95_ms:.1f} ms"


def _memory(result: SpeedResult) -> list[str]:
    lines = [f"memory         {result.peak_mb:.0f} MB at most, of the whole process"]
    held = result.memory
    if held is not None:
        lines.append(
            f"a keyframe     holds {held.total:.3f} MB: images {held.images:.3f}, "
            f"depths {held.depth:.3f}, points {held.points:.3f}, edges {held.edges:.3f}, "
            f"its frames {held.frames:.3f}"
        )
    if result.budget_mb is not None:
        lines.append(
            f"               {result.budget_mb:.0f} MB were given; {result.disk_mb:.0f} MB on disk"
        )
    moments = {mark: [r for r in result.resident if r.seconds >= 60 * mark] for mark in MINUTES}
    if over_time := [f"{left[0].megabytes:.0f} at {m}" for m, left in moments.items() if left]:
        lines.append(f"               MB by minutes of input: {', '.join(over_time)}")
    if result.resident_slope_mb is not None:
        lines.append(f"               the process grew by {result.resident_slope_mb:.3f} MB each")
    return lines


def _growth_table(result: SpeedResult, marks: Sequence[int]) -> str:
    stages = result.backend
    if not stages:
        return ""
    lines = [f"backend, ms a keyframe (mean over the {SPAN} keyframes before)"]
    lines.append(f"{'keyframes':<14}" + "".join(f"{growth.stage:>12}" for growth in stages))
    for mark in marks:
        reached = any(mark in growth.means for growth in stages)
        cells = [_number(g.means.get(mark), ".2f") for g in stages] if reached else []
        said = "  not reached" if not reached else "".join(f"{cell:>12}" for cell in cells)
        lines.append(f"{mark:<14}{said}")
    cells = "".join(f"{_number(growth.slope, '+.3f'):>12}" for growth in stages)
    lines.append(f"{'per 100 more':<14}{cells}  (least squares from keyframe {SETTLED} on)")
    return "\n".join(lines)


def _errors(result: SpeedResult, full: SpeedResult | None) -> list[str]:
    if result.errors.loop is None:
        return ["keyframe ATE   unknown (no ground truth, or too few keyframes)"]
    lines = [f"keyframe ATE   {_error_words(result)}"]
    if full is not None:
        lines.append(f"  all keyframes in the window: {_error_words(full)}")
        lines.append(
            f"  that run: {full.keyframes} keyframes, "
            f"{rate(full.processed, full.loop_seconds):.2f} frames/s in the loop"
        )
    return lines


def _error_words(result: SpeedResult) -> str:
    errors = result.errors
    return (
        f"{_number(errors.loop, '.4f')} m as the loop left them, "
        f"{_number(errors.final, '.4f')} m after the final adjustment "
        f"(RMSE after Sim(3) alignment; path {_number(errors.path_length, '.1f')} m)"
    )


def _number(value: float | None, style: str) -> str:
    return UNKNOWN if value is None else format(value, style)
