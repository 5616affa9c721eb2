"""Trajectory errors: position and rotation after alignment, relative errors over intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from slam.trajectory import Trajectory

SECOND_TOLERANCE = 0.02  # s; how far two poses may be from exactly one second apart


@dataclass(frozen=True, slots=True)
class ErrorStatistics:
    """Summary of N >= 1 errors, in their unit."""

    rmse: float
    mean: float
    median: float
    std: float  # of the population, as evo and numpy
    min: float
    max: float
    count: int

    @staticmethod
    def of(errors: np.ndarray) -> ErrorStatistics:
        """Of errors [N], N >= 1."""
        return ErrorStatistics(
            rmse=float(np.sqrt(np.mean(errors**2))),
            mean=float(np.mean(errors)),
            median=float(np.median(errors)),
            std=float(np.std(errors)),
            min=float(np.min(errors)),
            max=float(np.max(errors)),
            count=len(errors),
        )

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RelativeError:
    """Error of the motion over an interval (RPE; Sturm et al., IROS 2012, eq. 1)."""

    translation: ErrorStatistics  # m for each interval
    rotation: ErrorStatistics  # deg for each interval

    def to_dict(self) -> dict[str, dict[str, float | int]]:
        return {
            "translation_m": self.translation.to_dict(),
            "rotation_deg": self.rotation.to_dict(),
        }


def position_errors(estimate: Trajectory, ground_truth: Trajectory) -> np.ndarray:
    """Distances of matched camera centres, [N] m."""
    return np.linalg.norm(estimate.positions - ground_truth.positions, axis=1)


def rotation_errors(estimate: Trajectory, ground_truth: Trajectory) -> np.ndarray:
    """Angles between matched orientations, [N] deg."""
    return np.degrees((ground_truth.rotations.inv() * estimate.rotations).magnitude())


def relative_error(
    estimate: Trajectory, ground_truth: Trajectory, pairs: np.ndarray
) -> RelativeError | None:
    """RPE over pairs of rows (i, j): E = (Q_i^-1 Q_j)^-1 (P_i^-1 P_j), Q true, P estimated.

    Args:
        estimate, ground_truth: matched row by row; the estimate in metres (aligned).
        pairs: [P, 2] rows.
    Returns None without pairs.
    """
    if len(pairs) == 0:
        return None
    i, j = pairs.T
    R_est, R_true = estimate.rotations, ground_truth.rotations
    step_est = R_est[i].inv().apply(estimate.positions[j] - estimate.positions[i])
    step_true = R_true[i].inv().apply(ground_truth.positions[j] - ground_truth.positions[i])
    turn_est, turn_true = R_est[i].inv() * R_est[j], R_true[i].inv() * R_true[j]
    return RelativeError(
        translation=ErrorStatistics.of(np.linalg.norm(step_est - step_true, axis=1)),
        rotation=ErrorStatistics.of(np.degrees((turn_true.inv() * turn_est).magnitude())),
    )


def pairs_per_frame(count: int) -> np.ndarray:
    """Each pose with the next, [count - 1, 2] (evo_rpe -d 1 -u f)."""
    rows = np.arange(count)
    return np.stack([rows[:-1], rows[1:]], axis=1)


def pairs_per_second(seconds: np.ndarray) -> np.ndarray:
    """Each pose with the one nearest to a second later, [P, 2]; the intervals overlap.

    A pose without a partner within SECOND_TOLERANCE of one second has no pair.
    """
    wanted = seconds + 1.0
    after = np.clip(np.searchsorted(seconds, wanted), 1, len(seconds) - 1)
    earlier_is_nearer = wanted - seconds[after - 1] < seconds[after] - wanted
    nearest = np.where(earlier_is_nearer, after - 1, after)
    kept = np.flatnonzero(np.abs(seconds[nearest] - wanted) <= SECOND_TOLERANCE)
    return np.stack([kept, nearest[kept]], axis=1)


def pairs_per_metre(positions: np.ndarray) -> np.ndarray:
    """Consecutive intervals of a metre along the path [N, 3] m, as rows [P, 2] (evo_rpe -d 1 -u m).

    An interval ends at the first pose a metre of path after its start; the next one starts there.
    """
    travelled = path_distances(positions)
    ends = [0]
    for row in range(1, len(travelled)):
        if travelled[row] - travelled[ends[-1]] >= 1.0:
            ends.append(row)
    return np.stack([ends[:-1], ends[1:]], axis=1)


def path_distances(positions: np.ndarray) -> np.ndarray:
    """Distance travelled up to each of the positions [N, 3], [N] in their unit."""
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])
