"""How good a run is: trajectory and depth errors, tables, plots, the report image."""

from slam.evaluation.alignment import transform_points, transform_trajectory, umeyama
from slam.evaluation.depth import DepthErrors, best_scale, depth_errors, sparsification
from slam.evaluation.evaluate import (
    Completeness,
    EvaluationResult,
    evaluate,
    evaluate_files,
)
from slam.evaluation.frame_times import read_frame_times
from slam.evaluation.metrics import ErrorStatistics, RelativeError
from slam.evaluation.table import format_table

__all__ = [
    "Completeness",
    "DepthErrors",
    "ErrorStatistics",
    "EvaluationResult",
    "RelativeError",
    "best_scale",
    "depth_errors",
    "evaluate",
    "evaluate_files",
    "format_table",
    "read_frame_times",
    "sparsification",
    "transform_points",
    "transform_trajectory",
    "umeyama",
]
