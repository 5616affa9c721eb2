"""One estimated path against the true one: matching, alignment, and every error with one name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slam.evaluation.alignment import (
    IDENTITY,
    AlignmentKind,
    is_straight,
    transform_trajectory,
    umeyama,
)
from slam.evaluation.frame_times import read_frame_times, read_weak_times
from slam.evaluation.metrics import (
    ErrorStatistics,
    RelativeError,
    pairs_per_frame,
    pairs_per_metre,
    pairs_per_second,
    path_distances,
    position_errors,
    relative_error,
    rotation_errors,
)
from slam.trajectory import (
    Trajectory,
    associate,
    detect_format,
    read_trajectory,
)

FRAME_NUMBER_SECONDS = 1 / 30  # integer stamps are frame numbers at 30 Hz (ICL-NUIM)
KITTI_ROW_SECONDS = 1 / 10  # KITTI odometry is recorded at 10 Hz


@dataclass(frozen=True, slots=True)
class Completeness:
    """How many of the frames that could be judged have a pose."""

    posed: int  # frames with ground truth and a pose
    judged: int  # frames with ground truth within max_dt

    @property
    def fraction(self) -> float:
        return self.posed / self.judged

    def to_dict(self) -> dict[str, float | int]:
        return {"posed": self.posed, "judged": self.judged, "fraction": self.fraction}


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Errors of an estimated path. Matched rows: estimate and truth of the same moment."""

    ate_sim3: ErrorStatistics  # m, after rotation, translation and scale (evo_ape -as)
    ate_se3: ErrorStatistics  # m, after rotation and translation (evo_ape -a)
    ate_unaligned: ErrorStatistics  # m, as it stands (evo_ape)
    rotation: ErrorStatistics | None  # deg, after `alignment`; None on a straight path: not fixed
    rpe_frame: RelativeError  # per matched pose to the next, scale of `alignment`
    rpe_second: RelativeError | None  # per second, overlapping; None without such pairs
    rpe_metre: RelativeError | None  # per metre of the estimate; None where the path is shorter
    scale: float  # true length / estimated length: the s of the Sim(3) alignment
    scale_error: float  # |s - 1|
    path_length: float  # m, of the ground truth at the matched moments
    completeness: Completeness | None  # None: the source's frames are not known
    alignment: AlignmentKind  # what rotation, RPE and the fields below were computed under
    T_true_est: np.ndarray  # [8] float64 Sim(3), that alignment
    estimate: Trajectory  # matched rows, aligned
    ground_truth: Trajectory  # matched rows
    errors: np.ndarray  # [P] float64 m, position errors of the matched rows

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; None is 'unknown'."""

        def plain(value: ErrorStatistics | RelativeError | Completeness | None) -> Any:
            return None if value is None else value.to_dict()

        return {
            "ate_sim3_m": plain(self.ate_sim3),
            "ate_se3_m": plain(self.ate_se3),
            "ate_unaligned_m": plain(self.ate_unaligned),
            "rotation_deg": plain(self.rotation),
            "rpe_frame": plain(self.rpe_frame),
            "rpe_second": plain(self.rpe_second),
            "rpe_metre": plain(self.rpe_metre),
            "scale": self.scale,
            "scale_error": self.scale_error,
            "path_length_m": self.path_length,
            "matched_poses": len(self.errors),
            "completeness": plain(self.completeness),
            "alignment": self.alignment,
            "T_true_est": self.T_true_est.tolist(),
        }


def evaluate(
    estimate: Trajectory,
    ground_truth: Trajectory,
    *,
    max_dt: float = 0.02,
    frames: np.ndarray | None = None,
    weak: np.ndarray | None = None,
    align: AlignmentKind = "sim3",
    seconds_per_unit: float | None = None,
) -> EvaluationResult:
    """Compares an estimated path with the true one.

    Args:
        max_dt: largest time difference of a matched pair, unit of the stamps.
        frames: [F] stamps of all of the source's frames; None: completeness is unknown.
        weak: [W] stamps of poses that were not measured: they do not count as posed.
        align: alignment for rotation, relative errors and the matched paths in the result.
        seconds_per_unit: of the stamps; None: 1, or 1/30 where all stamps are integers (ICL-NUIM).
    Raises ValueError for fewer than 3 matched poses, a path that does not move, or a max_dt that is
    no time.
    """
    _require_time("max_dt", max_dt)
    pairs = associate(ground_truth.times, estimate.times, max_dt)
    _require_matches(estimate, ground_truth, pairs, max_dt)
    true, matched = ground_truth.select(pairs[:, 0]), estimate.select(pairs[:, 1])
    T_sim3 = umeyama(matched.positions, true.positions, with_scale=True)
    T_se3 = umeyama(matched.positions, true.positions, with_scale=False)
    transforms = {"sim3": T_sim3, "se3": T_se3, "none": IDENTITY}
    if align not in transforms:
        raise ValueError(f"align: wanted sim3, se3 or none, got '{align}'")
    aligned = {kind: transform_trajectory(T, matched) for kind, T in transforms.items()}
    errors = {kind: position_errors(path, true) for kind, path in aligned.items()}
    chosen = aligned[align]
    rotation_is_fixed = align == "none" or not is_straight(true.positions)
    frame_pairs = pairs_per_frame(len(true))
    rpe_frame = relative_error(chosen, true, frame_pairs)
    assert rpe_frame is not None  # at least 3 matched poses
    seconds = _seconds(true.times, seconds_per_unit)
    return EvaluationResult(
        ate_sim3=ErrorStatistics.of(errors["sim3"]),
        ate_se3=ErrorStatistics.of(errors["se3"]),
        ate_unaligned=ErrorStatistics.of(errors["none"]),
        rotation=ErrorStatistics.of(rotation_errors(chosen, true)) if rotation_is_fixed else None,
        rpe_frame=rpe_frame,
        rpe_second=relative_error(chosen, true, pairs_per_second(seconds)),
        rpe_metre=relative_error(chosen, true, pairs_per_metre(chosen.positions)),
        scale=float(T_sim3[7]),
        scale_error=abs(float(T_sim3[7]) - 1.0),
        path_length=float(path_distances(true.positions)[-1]),
        completeness=_completeness(estimate, ground_truth, frames, weak, max_dt),
        alignment=align,
        T_true_est=transforms[align],
        estimate=chosen,
        ground_truth=true,
        errors=errors[align],
    )


def evaluate_files(
    trajectory_path: Path | str,
    ground_truth_path: Path | str,
    *,
    frames: Path | str | np.ndarray | None = None,
    max_dt: float = 0.02,
    format: str = "auto",
    align: AlignmentKind = "sim3",
) -> EvaluationResult:
    """Compares two trajectory files (TUM, EuRoC, KITTI).

    KITTI rows carry no time. Two KITTI files are matched row by row; one KITTI file takes the times
    of `frames`, or of the other file, where their number is the same.

    Args:
        frames: all of the source's frames: stamps [F], or a file that read_frame_times reads.
        format: of both files; "auto" tells each from its content.
    Raises FileNotFoundError and ValueError as read_trajectory and evaluate do.
    """
    _require_time("max_dt", max_dt)
    estimate = read_trajectory(trajectory_path, format)
    ground_truth = read_trajectory(ground_truth_path, format)
    from_file = isinstance(frames, (str, Path))
    times = read_frame_times(frames) if from_file else frames
    weak = read_weak_times(frames) if from_file else None
    by_row = [
        (detect_format(path) if format == "auto" else format) == "kitti"
        for path in (trajectory_path, ground_truth_path)
    ]
    if all(by_row):
        if len(estimate) != len(ground_truth):
            raise ValueError(
                f"KITTI files are matched by row: wanted as many rows in {trajectory_path} "
                f"({len(estimate)}) as in {ground_truth_path} ({len(ground_truth)})"
            )
        frame_rows = None if times is None else np.arange(len(times), dtype=np.float64)
        return evaluate(
            estimate,
            ground_truth,
            max_dt=0.5,
            frames=frame_rows,
            align=align,
            seconds_per_unit=KITTI_ROW_SECONDS,
        )
    if by_row[0]:
        estimate = _with_times(estimate, trajectory_path, times, ground_truth)
    if by_row[1]:
        ground_truth = _with_times(ground_truth, ground_truth_path, times, estimate)
    return evaluate(estimate, ground_truth, max_dt=max_dt, frames=times, weak=weak, align=align)


def _with_times(
    rows: Trajectory, path: Path | str, times: np.ndarray | None, other: Trajectory
) -> Trajectory:
    for candidate in (times, other.times):
        if candidate is not None and len(candidate) == len(rows):
            return Trajectory(candidate, rows.poses)
    raise ValueError(
        f"{path}: KITTI rows have no times and the other file has {len(other)} poses for "
        f"{len(rows)} rows; give the stamps of all {len(rows)} frames (--frames times.txt)"
    )


def _require_time(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: wanted a time of at least 0 s, got {value}")


def _require_matches(
    estimate: Trajectory, ground_truth: Trajectory, pairs: np.ndarray, max_dt: float
) -> None:
    if len(pairs) >= 3:
        return
    spans = [
        f"{len(path)} poses {path.times[0]:.3f} .. {path.times[-1]:.3f}" if len(path) else "0 poses"
        for path in (estimate, ground_truth)
    ]
    raise ValueError(
        f"evaluation wants at least 3 poses matched within {max_dt:g} s, got {len(pairs)}: "
        f"estimate {spans[0]}, ground truth {spans[1]}"
    )


def _seconds(times: np.ndarray, seconds_per_unit: float | None) -> np.ndarray:
    if seconds_per_unit is None:
        are_frame_numbers = bool((times == np.round(times)).all())
        seconds_per_unit = FRAME_NUMBER_SECONDS if are_frame_numbers else 1.0
    return times * seconds_per_unit


def _completeness(
    estimate: Trajectory,
    ground_truth: Trajectory,
    frames: np.ndarray | None,
    weak: np.ndarray | None,
    max_dt: float,
) -> Completeness | None:
    if frames is None:
        return None
    nearest = np.clip(np.searchsorted(ground_truth.times, frames), 1, len(ground_truth) - 1)
    gap = np.minimum(
        np.abs(ground_truth.times[nearest] - frames),
        np.abs(ground_truth.times[nearest - 1] - frames),
    )
    judged = gap <= max_dt
    posed = np.zeros(len(frames), dtype=bool)
    guessed = np.empty(0) if weak is None else weak
    measured = estimate.times[~np.isin(estimate.times.round(6), guessed.round(6))]
    posed[associate(frames, measured, max_dt)[:, 0]] = True
    if not judged.any():
        raise ValueError(
            f"frames: none of {len(frames)} stamps has ground truth within {max_dt:g} s"
        )
    return Completeness(posed=int((posed & judged).sum()), judged=int(judged.sum()))
