"""An EvaluationResult as a text table for people."""

from __future__ import annotations

from slam.evaluation.evaluate import EvaluationResult
from slam.evaluation.metrics import ErrorStatistics, RelativeError

COLUMNS = ("rmse", "mean", "median", "std", "min", "max")
ALIGNMENT_NAMES = {"sim3": "Sim(3)", "se3": "SE(3)", "none": "no"}


def format_table(result: EvaluationResult) -> str:
    """Lines of fixed width: one row a metric, then counts, scale and completeness."""
    header = " " * 34 + "".join(f"{name:>10}" for name in COLUMNS)
    rows = [
        _row("position error, Sim(3) aligned [m]", result.ate_sim3),
        _row("position error, SE(3) aligned [m]", result.ate_se3),
        _row("position error, not aligned [m]", result.ate_unaligned),
        _row("rotation error [deg]", result.rotation),
        *_relative_rows("1 frame", result.rpe_frame),
        *_relative_rows("1 s", result.rpe_second),
        *_relative_rows("1 m", result.rpe_metre),
    ]
    return "\n".join([header, *rows, "", *_facts(result)])


def _row(name: str, statistics: ErrorStatistics | None) -> str:
    if statistics is None:
        return f"{name:<34}{'unknown':>10}"
    values = "".join(f"{getattr(statistics, column):>10.4g}" for column in COLUMNS)
    return f"{name:<34}{values}"


def _relative_rows(interval: str, error: RelativeError | None) -> list[str]:
    translation = None if error is None else error.translation
    rotation = None if error is None else error.rotation
    return [
        _row(f"relative error over {interval} [m]", translation),
        _row(f"relative error over {interval} [deg]", rotation),
    ]


def _facts(result: EvaluationResult) -> list[str]:
    completeness = "unknown (the source's frames were not given)"
    if result.completeness is not None:
        counts = result.completeness
        completeness = (
            f"{100 * counts.fraction:.1f} % "
            f"({counts.posed} of {counts.judged} frames with ground truth have a pose)"
        )
    return [
        f"matched poses  {len(result.errors)}, true path {result.path_length:.3f} m",
        f"scale          {result.scale:.6g} (true / estimated): {100 * result.scale_error:.3g} % "
        "from metric; a monocular run is free to have any",
        f"completeness   {completeness}",
        f"rotation and relative errors under {ALIGNMENT_NAMES[result.alignment]} alignment",
    ]
