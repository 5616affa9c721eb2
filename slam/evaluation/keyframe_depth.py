"""Keyframe depths of a run against a source's depth maps, one scale for the whole run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from slam.evaluation.depth import (
    DepthErrors,
    Sparsification,
    best_scale,
    depth_errors,
    sparsification,
)
from slam.sources import Source

ARRAYS = ("index", "time", "images", "inverse_depth", "information", "pixel", "working_size")
SAME_TIME = 1e-6  # stamps of the data set: as exact as its files
KEPT = tuple(n / 20 for n in range(20, 0, -1))  # shares on the sparsification curve


@dataclass(frozen=True, slots=True)
class KeyframeDepthResult:
    """Errors over all keyframes that have a depth map."""

    errors: DepthErrors  # of pixels above the confidence threshold
    scale: float  # metres per unit of the run
    keyframes: int  # that had a depth map
    threshold: float  # confidence, 1 / relative sigma
    curve: Sparsification  # of all measured pixels, whatever their confidence

    def summary(self) -> str:
        """A few lines and the curve as a table, for a person."""
        lines = [
            f"{self.keyframes} keyframes with depth, scale {self.scale:.4f}",
            f"median relative error {self.errors.median_relative:.4f} on "
            f"{100 * self.errors.coverage:.1f} % of the sensor's valid pixels "
            f"(confidence >= {self.threshold:g}); "
            f"{100 * self.errors.within_10_percent:.1f} % within 10 %",
            f"all measured pixels: the most confident half has {self.curve.best_half:.2f} times "
            f"the median error, AUSE {self.curve.excess_area:.3f}",
            "coverage  confidence  median error  best possible",
        ]
        rows = zip(
            self.curve.coverage,
            self.curve.confidence,
            self.curve.median,
            self.curve.best_possible,
            strict=True,
        )
        lines += [
            f"{100 * coverage:6.1f} %  {least:10.1f}  {median:12.4f}  {best:13.4f}"
            for coverage, least, median, best in list(rows)[::2]
        ]
        return "\n".join(lines)


def evaluate_keyframe_depth(folder: Path, source: Source, threshold: float) -> KeyframeDepthResult:
    """Compares `keyframes.npz` of a run with the depth maps of its source.

    The run's pixels are moved into the raw images' geometry, where the sensor's depth lives.

    Raises FileNotFoundError for a folder that is no run, ValueError where the source is not that
    of the run, or no keyframe has a map.
    """
    run = _read_keyframes(folder)
    _require_same_recording(run, folder, source)
    width, height = map(int, run["working_size"])
    raw = source.raw_pixels(torch.from_numpy(run["pixel"]), width, height)
    predicted, trust, sensor = [], [], []
    for index, depth, information in zip(
        run["index"], run["inverse_depth"], run["information"], strict=True
    ):
        measured = source.depth_at(int(index), raw)
        if measured is None:
            continue
        sensor.append(measured)
        predicted.append(1 / np.maximum(depth, 1e-9))
        trust.append(depth * np.sqrt(information))
    if not sensor:
        raise ValueError(f"{source.path}: no depth map within 20 ms of a keyframe of {folder}")
    depth, truth, known = np.stack(predicted), np.stack(sensor), np.stack(trust)
    certain = np.where(known >= threshold, known, 0.0)
    scale = best_scale(depth, certain, truth)
    return KeyframeDepthResult(
        errors=depth_errors(depth, certain, truth, scale),
        scale=scale,
        keyframes=len(sensor),
        threshold=threshold,
        curve=sparsification(depth, known, truth, scale, KEPT),
    )


def _read_keyframes(folder: Path) -> dict[str, np.ndarray]:
    path = folder / "keyframes.npz"
    if not path.is_file():
        raise FileNotFoundError(f"wanted the folder of a run with keyframes.npz, got {folder}")
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in ARRAYS}
    except KeyError as error:
        raise ValueError(
            f"{path}: wanted {', '.join(ARRAYS)} as `slam run` writes them, one is missing; "
            "run again"
        ) from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: wanted what `slam run` writes, found a damaged file") from error


def _require_same_recording(run: dict[str, np.ndarray], folder: Path, source: Source) -> None:
    """Raises ValueError unless the source has as many images, and the keyframes' at their times."""
    images, times = int(run["images"]), source.recorded
    if images != len(times):
        raise ValueError(
            f"{source.path}: wanted the {images} images that the run in {folder} was given, "
            f"got {len(times)}; name the source of that run"
        )
    apart = np.abs(times[run["index"]] - run["time"])
    if (apart > SAME_TIME).any():
        first = int(np.argmax(apart > SAME_TIME))
        raise ValueError(
            f"{source.path}: wanted image {run['index'][first]} at {run['time'][first]:.6f} s as "
            f"in the run in {folder}, got {times[run['index'][first]]:.6f} s; name the source of "
            "that run"
        )
