"""Depth errors against a sensor: one scale for a run, relative error, coverage, sparsification."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class DepthErrors:
    """Errors of predicted depth where prediction and sensor both measured."""

    median_relative: float  # median of |s * predicted - sensor| / sensor; nan where none compares
    within_10_percent: float  # fraction of compared pixels with a relative error below 0.1
    coverage: float  # compared pixels / the sensor's valid pixels
    compared: int  # pixels

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)


def best_scale(predicted: np.ndarray, confidence: np.ndarray, sensor: np.ndarray) -> float:
    """The one factor that takes predicted depths to the sensor's: the median of their ratios.

    Args:
        predicted, confidence, sensor: the same shape [...], all depth maps of a run together;
            predicted depth up to scale (confidence 0 = none), sensor depth m (0 or nan = none).
    Raises ValueError where no pixel has both.
    """
    _require_same_shape(predicted, confidence, sensor)
    both = _measured(predicted, confidence) & _valid(sensor)
    if not both.any():
        raise ValueError("best_scale wants pixels with predicted and sensor depth, got none")
    return float(np.median(sensor[both].astype(np.float64) / predicted[both]))


def depth_errors(
    predicted: np.ndarray, confidence: np.ndarray, sensor: np.ndarray, scale: float
) -> DepthErrors:
    """Errors of scale * predicted against the sensor; arrays as in best_scale.

    Raises ValueError where the sensor has no valid pixel.
    """
    _require_same_shape(predicted, confidence, sensor)
    valid = _valid(sensor)
    if not valid.any():
        raise ValueError("depth_errors wants sensor depth, got no valid pixel")
    both = valid & _measured(predicted, confidence)
    relative = _relative_errors(predicted[both], sensor[both], scale)
    return DepthErrors(
        median_relative=float(np.median(relative)) if len(relative) else float("nan"),
        within_10_percent=float(np.mean(relative < 0.1)) if len(relative) else 0.0,
        coverage=float(both.sum() / valid.sum()),
        compared=int(both.sum()),
    )


def sparsification(
    predicted: np.ndarray,
    confidence: np.ndarray,
    sensor: np.ndarray,
    scale: float,
    kept_fractions: np.ndarray,
) -> np.ndarray:
    """Median relative error of the most confident pixels: falls where confidence tells the truth.

    Args:
        kept_fractions: [Q] in (0, 1], the fraction of compared pixels kept, most confident first.
    Returns [Q] float64. Raises ValueError where no pixel has both depths.
    """
    _require_same_shape(predicted, confidence, sensor)
    both = _measured(predicted, confidence) & _valid(sensor)
    if not both.any():
        raise ValueError("sparsification wants pixels with predicted and sensor depth, got none")
    relative = _relative_errors(predicted[both], sensor[both], scale)
    sorted_errors = relative[np.argsort(-confidence[both], kind="stable")]
    counts = np.ceil(np.asarray(kept_fractions) * len(sorted_errors)).astype(int)
    return np.array([np.median(sorted_errors[: max(count, 1)]) for count in counts])


def _measured(predicted: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    return (confidence > 0) & np.isfinite(predicted) & (predicted > 0)


def _valid(sensor: np.ndarray) -> np.ndarray:
    return np.isfinite(sensor) & (sensor > 0)


def _relative_errors(predicted: np.ndarray, sensor: np.ndarray, scale: float) -> np.ndarray:
    return np.abs(scale * predicted.astype(np.float64) - sensor) / sensor


def _require_same_shape(predicted: np.ndarray, confidence: np.ndarray, sensor: np.ndarray) -> None:
    if not predicted.shape == confidence.shape == sensor.shape:
        raise ValueError(
            "depth maps: wanted one shape for predicted, confidence and sensor, "
            f"got {predicted.shape}, {confidence.shape}, {sensor.shape}"
        )
