"""Start-up: two views to a first map, or a clear no. Rotation alone must not start; planes must."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from slam.config import Config, StartSettings
from slam.frame import Correspondence, Intrinsics, InverseDepth, PairPrediction
from slam.lie import se3_from_matrix, se3_inv, se3_matrix, se3_mul
from slam.mapping import observe
from slam.optimization import BundleAdjustment, bundle_adjust
from slam.predictors.grid import Grid
from slam.tracking import track

IDENTITY = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class TwoViewMap:
    """A first map: the reference camera is the world, its median depth is 1."""

    T_ji: Tensor  # [7] float64 SE(3): takes points of the reference to the second view
    depth: InverseDepth  # [P] of the reference's grid pixels
    intrinsics: Intrinsics  # fx, fy, cx, cy px under which it was made
    known_fraction: float  # share of the measurements, by weight, whose depth is known to 30 %
    cost: float  # robust cost per measurement, whitened, over all the views


def candidate_maps(
    grid: Grid,
    pair: PairPrediction,
    between: Sequence[Correspondence],
    cameras: Sequence[Intrinsics],
    config: Config,
) -> list[TwoViewMap]:
    """Maps that one pair of views allows, the cheapest first; none where it hardly moved.

    Candidates from the essential matrix and from the homography (which also explains planes) are
    each refined by a two-view dense bundle adjustment, and must explain some views in between: two
    views alone often have two explanations.

    Args:
        between: the reference's grid pixels in frames between the two.
        cameras: fx, fy, cx, cy px; several where the focal length is unknown.
    """
    start = config.start
    first, second = _matches(grid, pair)
    if len(first) < start.minimum_points:
        return []
    residual = min(np.median(rotation_residual(first, second, c)) for c in cameras)
    if residual < start.rotation_residual * grid.width:
        return []
    refined = [
        _refine(grid, pair, T, camera, config)
        for camera in cameras
        for T in _candidates(first, second, camera, start)
    ]
    maps = [_explain(grid, m, between, config) for m in refined if m is not None]
    return sorted(maps, key=lambda m: m.cost)


def two_view_map(
    grid: Grid,
    pair: PairPrediction,
    maps: list[TwoViewMap],
    start: StartSettings,
    *,
    parallax: float,
    last_chance: bool = False,
) -> TwoViewMap | None:
    """The best of a pair's candidates, or None while there is too little parallax for one.

    Args:
        parallax: widths, that it must have.
        last_chance: the views are about to part: take it even if another is nearly as good.
    """
    if not maps or maps[0].known_fraction < start.known_fraction:
        return None
    best = maps[0]
    known = known_depths(best.depth, start)[pair.forward.weight > 0].numpy()
    T_ji = se3_matrix(best.T_ji).numpy()
    seen = rms_parallax(*_matches(grid, pair), known, T_ji, best.intrinsics) / grid.width
    if seen < parallax or (_ambiguous(maps, start) and not last_chance):
        return None
    return best


def _matches(grid: Grid, pair: PairPrediction) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 2] float64 of the first view that are matched, and where in the second."""
    valid = (pair.forward.weight > 0).numpy()
    ends = grid.pixel.numpy()[valid], pair.forward.target.numpy()[valid]
    return ends[0].astype(np.float64), ends[1].astype(np.float64)


def _explain(
    grid: Grid,
    found: TwoViewMap,
    between: Sequence[Correspondence],
    config: Config,
) -> TwoViewMap:
    """The same map with the cost of posing the views in between added."""
    T_guess, cost = found.T_ji.clone(), found.cost
    for measured in reversed(between):
        result = track(
            grid.pixel, found.depth, measured, T_guess, found.intrinsics, config.tracking
        )
        T_guess = result.T_fk
        cost += result.cost
    return replace(found, cost=cost)


def _ambiguous(maps: list[TwoViewMap], start: StartSettings) -> bool:
    """Whether a map with another direction of motion explains the views about as well."""
    best = maps[0].T_ji[:3] / torch.linalg.vector_norm(maps[0].T_ji[:3])
    for other in maps[1:]:
        direction = other.T_ji[:3] / torch.linalg.vector_norm(other.T_ji[:3])
        if other.cost < start.ambiguity * maps[0].cost and float(best @ direction) < 0.9:
            return True
    return False


def rotation_residual(first: np.ndarray, second: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """What the best pure rotation leaves of matches [N, 2] -> [N, 2], px [N] (robust fit)."""
    a, b = bearings(first, intrinsics), bearings(second, intrinsics)
    weight = np.ones(len(a))
    error = np.zeros(len(a))
    for _ in range(5):
        U, _, Vt = np.linalg.svd(np.einsum("n,ni,nj->ij", weight, b, a))
        R = U @ np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))]) @ Vt
        error = np.linalg.norm(_project(a @ R.T, intrinsics) - second, axis=1)
        weight = 1 / np.maximum(error, 0.1)
    return error


def rms_parallax(
    first: np.ndarray,
    second: np.ndarray,
    known: np.ndarray,
    T_ji: np.ndarray,
    intrinsics: Intrinsics,
) -> float:
    """Root mean square flow in px that is left when the rotation of T_ji [4, 4] is taken out.

    What the views tell of the motion grows with its square: a camera that moves ahead learns it
    from the near, and the far costs nothing. Matches whose depth is not known [N] count as none.
    """
    turned = _project(bearings(first, intrinsics) @ T_ji[:3, :3].T, intrinsics)
    return float(np.sqrt(np.mean(known * ((second - turned) ** 2).sum(axis=1))))


def bearings(pixel: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Unit rays [N, 3] of pixels [N, 2]."""
    fx, fy, cx, cy = intrinsics
    rays = np.stack([(pixel[:, 0] - cx) / fx, (pixel[:, 1] - cy) / fy, np.ones(len(pixel))], axis=1)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _project(points: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    fx, fy, cx, cy = intrinsics
    z = np.maximum(points[:, 2], 1e-6)
    return np.stack([fx * points[:, 0] / z + cx, fy * points[:, 1] / z + cy], axis=1)


def _candidates(
    first: np.ndarray, second: np.ndarray, intrinsics: Intrinsics, start: StartSettings
) -> list[np.ndarray]:
    """Possible T_ji [4, 4] with unit translation."""
    fx, fy, cx, cy = intrinsics
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    step = max(1, len(first) // start.sample)
    a, b = first[::step], second[::step]
    found: list[np.ndarray] = []
    E, inliers = cv2.findEssentialMat(
        a, b, K, method=cv2.USAC_MAGSAC, prob=0.999, threshold=start.epipolar_error
    )
    if E is not None and E.shape == (3, 3) and inliers.mean() > start.inlier_fraction:
        _, R, t, _ = cv2.recoverPose(E, a, b, K, mask=inliers.copy())
        found.append(_rigid(R, t))
    H, mask = cv2.findHomography(a, b, cv2.USAC_MAGSAC, 2 * start.epipolar_error)
    if H is not None and mask.mean() > start.inlier_fraction:
        _, rotations, translations, normals = cv2.decomposeHomographyMat(H, K)
        found += [
            _rigid(R, t)
            for R, t, n in zip(rotations, translations, normals, strict=True)
            if np.linalg.norm(t) > 1e-6 and (bearings(a, intrinsics) @ n).min() > 0
        ]
    return found


def _rigid(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t.ravel() / np.linalg.norm(t)
    return T


def _refine(
    grid: Grid,
    pair: PairPrediction,
    T_guess: np.ndarray,
    intrinsics: Intrinsics,
    config: Config,
) -> TwoViewMap | None:
    """Triangulate, adjust the pair in both directions, and scale to median depth 1."""
    T_ji = se3_from_matrix(torch.from_numpy(T_guess))
    depths = [
        observe(grid, pair.forward, T_ji, intrinsics, config.mapping),
        observe(grid, pair.backward, se3_inv(T_ji), intrinsics, config.mapping),
    ]
    filled = [_fill(d) for d in depths]
    if any(d is None for d in filled):
        return None
    world = identity()
    state = BundleAdjustment(
        torch.stack([world, se3_inv(T_ji)]),
        tuple(d for d in filled if d is not None),
        intrinsics,
    )
    result = bundle_adjust(
        grid,
        state,
        {(0, 1): pair.forward, (1, 0): pair.backward},
        [True, False],
        [False, False],
        config.bundle_adjustment,
        config.mapping,
        iterations=config.start.iterations,
    )
    return _scaled(pair, result, config.start)


def _fill(depth: InverseDepth) -> InverseDepth | None:
    """Unknown pixels take the median."""
    known = depth.information > 0
    if int(known.sum()) < 30:
        return None
    return InverseDepth(
        torch.where(known, depth.value, depth.value[known].median()), depth.information
    )


def _scaled(
    pair: PairPrediction, result: BundleAdjustment, start: StartSettings
) -> TwoViewMap | None:
    depth = result.depth[0]
    known = known_depths(depth, start)
    weight = pair.forward.weight
    if not known.any():
        return None
    scale = float(depth.value[known].median())
    T_ji = se3_mul(se3_inv(result.T_WC[1]), result.T_WC[0])
    T_ji[:3] *= scale
    return TwoViewMap(
        T_ji=T_ji,
        depth=InverseDepth(depth.value / scale, depth.information * scale**2),
        intrinsics=result.intrinsics,
        known_fraction=float(weight[known].sum() / weight.sum().clamp(min=1e-9)),
        cost=result.cost,
    )


def identity() -> Tensor:
    """The unit pose [7]."""
    return torch.tensor(IDENTITY, dtype=torch.float64)


def known_depths(depth: InverseDepth, start: StartSettings) -> Tensor:
    """Which depths [P] are known well enough to count."""
    return depth.information > (start.known_sigma * depth.value) ** -2


def spread(values: Sequence[Correspondence], count: int) -> Sequence[Correspondence]:
    """At most `count` of the values, evenly spread, without the ends."""
    step = len(values) / (count + 1)
    return [values[round(step * (n + 1))] for n in range(count)] if step >= 1 else values


def with_focal_factors(intrinsics: Intrinsics, factors: Sequence[float]) -> list[Intrinsics]:
    """The camera, or several where its focal length is a guess."""
    fx, fy, cx, cy = intrinsics
    return [(factor * fx, factor * fy, cx, cy) for factor in factors]
