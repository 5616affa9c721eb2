"""Depth errors: of arrays by hand, and of a run's keyframes against the source it ran on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sequences import SAMPLE

from slam.evaluation import best_scale, depth_errors, sparsification
from slam.evaluation.keyframe_depth import evaluate_keyframe_depth
from slam.predictors import Grid
from slam.sources import open_source

# --- arrays --------------------------------------------------------------------------------------


def test_depth_errors_under_one_scale() -> None:
    sensor = np.random.default_rng(0).uniform(1, 5, (3, 20, 30)).astype(np.float32)
    sensor[0, 0] = 0
    predicted, confidence = sensor / 2.5, np.ones_like(sensor)
    predicted[1, :5] *= 1.2  # 150 pixels 20 % wrong
    confidence[2, :10] = 0  # 300 pixels not measured
    scale = best_scale(predicted, confidence, sensor)
    assert scale == pytest.approx(2.5, rel=1e-6)
    errors = depth_errors(predicted, confidence, sensor, scale)
    assert errors.compared == 1800 - 30 - 300
    assert errors.coverage == pytest.approx(1470 / 1770)
    assert errors.within_10_percent == pytest.approx(1320 / 1470)
    assert errors.median_relative < 1e-6
    everything_off = depth_errors(predicted, confidence, sensor, 1.3 * scale)
    assert everything_off.median_relative == pytest.approx(0.3, abs=1e-5)


def test_sparsification_falls_where_confidence_tells_the_truth() -> None:
    generator = np.random.default_rng(0)
    sensor = np.full(10_000, 2.0)
    sigma = generator.uniform(0.001, 0.3, 10_000)
    predicted = sensor * (1 + sigma * generator.normal(size=10_000)).clip(0.1)
    kept = (1.0, 0.5, 0.1)
    honest = sparsification(predicted, 1 / sigma, sensor, 1.0, kept)
    assert honest.median[2] < 0.3 * honest.median[1] < 0.3 * honest.median[0]
    assert honest.best_half == pytest.approx(honest.median[1] / honest.median[0])
    assert honest.confidence[1] == pytest.approx(np.median(1 / sigma), rel=1e-3)
    wrong = sparsification(predicted, sigma, sensor, 1.0, kept)
    assert wrong.median[2] > honest.median[0] and wrong.best_half > 1
    assert 0 < honest.excess_area < 0.3 * wrong.excess_area


def test_the_best_possible_order_has_no_excess_and_coverage_counts_the_sensors_pixels() -> None:
    sensor = np.full(1000, 2.0)
    error = np.linspace(0, 0.2, 1000)
    predicted, confidence = sensor * (1 + error), 1 / (error + 0.01)
    confidence[800:] = 0  # not measured: the worst fifth
    kept = tuple(n / 10 for n in range(10, 0, -1))
    curve = sparsification(predicted, confidence, sensor, 1.0, kept)
    assert curve.median == curve.best_possible and curve.excess_area == 0
    assert curve.coverage == pytest.approx([0.08 * n for n in range(10, 0, -1)])
    assert curve.median[0] == pytest.approx(np.median(error[:800]))
    assert curve.best_half == pytest.approx(0.5, rel=0.01)
    shuffled = np.random.default_rng(1).permutation(error[:800])
    random = sparsification(sensor[:800], np.ones(800), sensor[:800] / (1 + shuffled), 1.0, kept)
    assert random.best_half == pytest.approx(1.0, abs=0.15)
    # of errors spread evenly the best possible median falls in a line: 1 - k, from k = 0.1 to 1
    assert random.excess_area == pytest.approx(0.9**2 / 2, abs=0.05)


def test_depth_without_overlap_is_named() -> None:
    one, zero = np.ones((2, 2)), np.zeros((2, 2))
    with pytest.raises(ValueError, match="none"):
        best_scale(one, zero, one)
    with pytest.raises(ValueError, match="no valid pixel"):
        depth_errors(one, one, zero, 1.0)
    with pytest.raises(ValueError, match=r"\(2, 2\), \(2, 2\), \(3,\)"):
        best_scale(one, one, np.ones(3))
    assert depth_errors(one, zero, one, 1.0).coverage == 0


# --- keyframes of a run --------------------------------------------------------------------------


def write_run(folder: Path, **changes: np.ndarray) -> Path:
    """A run on the sample whose keyframes' depths are the sensor's, in units of 0.5 m."""
    source, grid = open_source(SAMPLE), Grid(320, 240, 4)
    raw = source.raw_pixels(grid.pixel, 320, 240)
    index = np.array(sorted(source.depth_files)[:2])
    depth = np.stack([source.depth_at(int(n), raw) for n in index])
    arrays = {
        "index": index,
        "time": source.times[index],
        "images": np.array(300),
        "inverse_depth": 0.5 / depth,
        "information": np.full_like(depth, 1e6),
        "pixel": grid.pixel.numpy(),
        "working_size": np.array([320, 240]),
    }
    np.savez(folder / "keyframes.npz", **(arrays | changes))
    return folder


def test_the_sensors_own_depth_has_no_error(tmp_path: Path) -> None:
    result = evaluate_keyframe_depth(write_run(tmp_path), open_source(SAMPLE), threshold=20.0)
    assert result.keyframes == 2 and result.scale == pytest.approx(0.5)
    assert result.errors.median_relative < 1e-6 and result.errors.coverage == 1


def test_the_source_of_another_run_is_told(tmp_path: Path) -> None:
    times = open_source(SAMPLE).times[sorted(open_source(SAMPLE).depth_files)[:2]]
    cases = {
        "wanted the 301 images": {"images": np.array(301)},
        "wanted image 27 at": {"time": times + np.array([0, 0.01])},
    }
    for message, change in cases.items():
        run = write_run(tmp_path, **change)
        with pytest.raises(ValueError, match=message) as error:
            evaluate_keyframe_depth(run, open_source(SAMPLE), threshold=20.0)
        assert "\n" not in str(error.value) and str(SAMPLE) in str(error.value)


def test_a_selection_of_the_source_is_still_that_source(tmp_path: Path) -> None:
    selected = open_source(SAMPLE, start=20, stride=7)
    assert evaluate_keyframe_depth(write_run(tmp_path), selected, 20.0).keyframes == 2


def test_a_damaged_run_is_told(tmp_path: Path) -> None:
    source = open_source(SAMPLE)
    with pytest.raises(FileNotFoundError, match=r"keyframes\.npz"):
        evaluate_keyframe_depth(tmp_path, source, 20.0)
    path = write_run(tmp_path) / "keyframes.npz"
    with np.load(path) as stored:
        kept = {name: stored[name] for name in stored.files if name != "time"}
    np.savez(path, **kept)
    with pytest.raises(ValueError, match="one is missing; run again"):
        evaluate_keyframe_depth(tmp_path, source, 20.0)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged file"):
        evaluate_keyframe_depth(tmp_path, source, 20.0)
