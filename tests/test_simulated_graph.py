"""From simulated pointmaps to a trajectory: tracking and pose graph, exact matches, real noise."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from simulated_room import CAMERA, SIZE, CountingWorld
from torch import Tensor

from slam.evaluation.alignment import transform_points, umeyama
from slam.frame import Intrinsics
from slam.lie import se3_act, se3_inv, se3_mul, sim3_exp, sim3_mul
from slam.optimization import (
    PointmapFactor,
    factor_matches,
    optimise_pose_graph,
    pack_factor,
)
from slam.pointmap_residuals import ResidualSettings, on_rays
from slam.pointmap_settings import DescentSettings, PoseGraphSettings
from slam.pointmap_tracking import track_pointmap
from slam.predictors.simulated import SimulatedNetwork, SimulatedSettings

pytestmark = pytest.mark.usefixtures("one_thread")
FRAMES = range(0, 300, 15)  # once round the room
COUNT = len(FRAMES)
IDENTITY = sim3_exp(torch.zeros(7, dtype=torch.float64))


@cache
def world() -> CountingWorld:
    return CountingWorld()


@cache
def edges() -> list[PointmapFactor]:
    """Exact matches between keyframes one and two apart, both ways, the loop closed."""
    perfect = SimulatedNetwork(world(), SimulatedSettings(noise_spread=0.0))
    tokens = [perfect.encode([index]) for index in FRAMES]
    found = []
    for i, j in [(k, (k + n) % COUNT) for k in range(COUNT) for n in (1, 2, -1, -2)]:
        view = perfect.decode(tokens[i], tokens[j], SIZE)[1]
        X_ij, seen = view.X[0].reshape(-1, 3).double(), view.confidence[0].flatten() > 5
        target = torch.where(X_ij[:, 2:] > 0, CAMERA.project(X_ij), -1.0)
        weight = torch.where(seen, 3.0, 0.0)
        found.append(pack_factor(i, j, torch.arange(len(seen)), target, weight, SIZE, 600))
    return found


def path_error(intrinsics: Intrinsics | None, **noise: float) -> float:
    """ATE after the pose graph over the length of the path, poses and scales from tracking."""
    network = SimulatedNetwork(world(), SimulatedSettings(seed=3, **noise))  # type: ignore[arg-type]
    tokens = [network.encode([index]) for index in FRAMES]
    pointmaps = []
    for k in range(COUNT):
        X = network.decode(tokens[k], tokens[(k + 1) % COUNT], SIZE)[0].X[0]
        pointmaps.append(X if intrinsics is None else on_rays(X, intrinsics))
    residuals = ResidualSettings()
    T_WC = [IDENTITY]
    for factor in [f for k in range(COUNT - 1) for f in edges() if (f.i, f.j) == (k, k + 1)]:
        matches = factor_matches(factor, pointmaps[factor.i], pointmaps[factor.j])
        track = track_pointmap(matches, IDENTITY, residuals, DescentSettings(), intrinsics)
        assert track.failure == ""
        T_WC.append(sim3_mul(T_WC[-1], track.T_kf))
    solution = optimise_pose_graph(
        torch.stack(T_WC),
        pointmaps,
        edges(),
        [False] * COUNT,
        residuals,
        PoseGraphSettings(),
        intrinsics,
    )
    assert solution.failure == "" and solution.cost <= solution.start_cost
    return error_of(solution.T_WC)


def error_of(T_WC: Tensor) -> float:
    truth = np.stack([world().read(index).T_WC[:3].numpy() for index in FRAMES])
    positions = T_WC[:, :3].numpy()
    aligned = transform_points(umeyama(positions, truth, with_scale=True), positions)
    length = np.linalg.norm(np.diff(truth, axis=0), axis=1).sum()
    return float(np.sqrt(((aligned - truth) ** 2).sum(1).mean()) / length)


@pytest.mark.parametrize("intrinsics", [None, CAMERA.intrinsics], ids=["rays", "pixels"])
def test_the_path_is_exact_without_noise_and_worse_with_more(
    intrinsics: Intrinsics | None,
) -> None:
    errors = [
        path_error(intrinsics, pair_scale=5 * n, warp=2 * n, noise=n) for n in (0.0, 0.01, 0.04)
    ]
    assert errors[0] < 1e-4
    assert 5 * errors[0] < errors[1] < 0.5 * errors[2]
    assert errors[1] < 0.01


def test_a_loop_that_drifted_far_is_closed_though_its_edges_look_wrong_at_first() -> None:
    # Without the wider scales of the factors' cost the error stays at 0.1, as tracking left it.
    assert path_error(None, pair_scale=0.5, warp=0.2, noise=0.1) < 0.06


def test_matches_are_where_the_surface_is() -> None:
    for factor in edges()[:8]:
        i, j = (world().read(FRAMES[k]) for k in (factor.i, factor.j))
        source = factor.source.long()
        pixel = torch.stack([source % SIZE[1], source // SIZE[1]], -1).double()
        X_j = CAMERA.unproject(pixel) * j.depth.flatten()[source, None]
        place = CAMERA.project(se3_act(se3_mul(se3_inv(i.T_WC), j.T_WC), X_j))
        corner = torch.stack([factor.target % SIZE[1], factor.target // SIZE[1]], -1)
        assert (place - corner - factor.offset.double()).abs().max() < 2e-3
