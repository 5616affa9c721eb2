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


@dataclass(frozen=True, slots=True)
class Sparsification:
    """Errors of ever fewer pixels, the most confident ones: they fall where confidence is right."""

    kept: tuple[float, ...]  # share of the compared pixels, falling from 1
    coverage: tuple[float, ...]  # the same pixels / the sensor's valid pixels
    confidence: tuple[float, ...]  # the least among them
    median: tuple[float, ...]  # their median relative error
    best_possible: tuple[float, ...]  # the same of as many pixels, kept by their true error

    @property
    def best_half(self) -> float:
        """Median error of the most confident half over that of all; nan if half is not in kept."""
        halves = [m for k, m in zip(self.kept, self.median, strict=True) if abs(k - 0.5) < 1e-9]
        return halves[0] / max(self.median[0], 1e-12) if halves else float("nan")

    @property
    def excess_area(self) -> float:
        """AUSE: area between the curve and the best possible one, over the median error of all."""
        gap = np.subtract(self.median, self.best_possible) / max(self.median[0], 1e-12)
        return float(np.sum((gap[1:] + gap[:-1]) / 2 * -np.diff(self.kept)))


def sparsification(
    predicted: np.ndarray,
    confidence: np.ndarray,
    sensor: np.ndarray,
    scale: float,
    kept: tuple[float, ...],
) -> Sparsification:
    """Errors of the most confident pixels; arrays as in best_scale.

    Args:
        kept: shares in (0, 1] of the compared pixels, falling from 1.
    Raises ValueError where no pixel has both depths.
    """
    _require_same_shape(predicted, confidence, sensor)
    both = _measured(predicted, confidence) & _valid(sensor)
    if not both.any():
        raise ValueError("sparsification wants pixels with predicted and sensor depth, got none")
    relative, trust = _relative_errors(predicted[both], sensor[both], scale), confidence[both]
    order = np.argsort(-trust, kind="stable")
    counts = [max(1, int(np.ceil(share * len(order)))) for share in kept]
    rising = np.sort(relative)
    return Sparsification(
        kept=kept,
        coverage=tuple(count / int(_valid(sensor).sum()) for count in counts),
        confidence=tuple(float(trust[order[count - 1]]) for count in counts),
        median=tuple(float(np.median(relative[order[:count]])) for count in counts),
        best_possible=tuple(float(np.median(rising[:count])) for count in counts),
    )


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
