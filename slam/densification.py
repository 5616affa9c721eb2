"""Dense output: depth of far more pixels than the grid's, solved against the final poses."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from slam.config import Config
from slam.frame import InverseDepth, PairGuess, Snapshot
from slam.mapping import dense_flow, fuse, observe, project_grid, relative
from slam.predictors import FlowPredictor, Grid


def densify(snapshot: Snapshot, coarse: Grid, config: Config) -> tuple[Grid, list[InverseDepth]]:
    """Inverse depth of every keyframe on a finer grid, from flow to the keyframes it is linked to.

    Every pixel is triangulated against a few others and fused with a chi-square gate. A pixel that
    no view measured keeps information 0: nothing is invented.

    Args: coarse: the grid that the snapshot's depths are on.
    Returns the finer grid and one [Q] inverse depth for each keyframe.
    """
    settings = replace(config.flow, grid_stride=config.map.stride)
    predictor = FlowPredictor(coarse.width, coarse.height, settings)
    mapping = replace(config.mapping, initial=1.0)
    features = [predictor.features(k.frame.features.rgb.numpy()) for k in snapshot.keyframes]

    def solve(number: int) -> InverseDepth:
        keyframe = snapshot.keyframes[number]
        count = len(predictor.grid.pixel)
        depth = InverseDepth(torch.ones(count), torch.zeros(count))
        for other in _partners(snapshot, number, config.map.views):
            T_ji = relative(keyframe.T_WC, snapshot.keyframes[other].T_WC)
            target, _ = project_grid(coarse, keyframe.depth, T_ji, snapshot.intrinsics)
            guess = PairGuess(dense_flow(coarse, target), None)
            pair = predictor.pair(features[number], features[other], guess)
            seen = observe(predictor.grid, pair.forward, T_ji, snapshot.intrinsics, mapping)
            depth = fuse(depth, seen, mapping)
        return depth

    try:
        with ThreadPoolExecutor(2, thread_name_prefix="dense") as pool:
            return predictor.grid, list(pool.map(solve, range(len(snapshot.keyframes))))
    finally:
        predictor.close()


def _partners(snapshot: Snapshot, number: int, count: int) -> Sequence[int]:
    """Linked keyframes, the longest baselines last: they refine what the near ones say."""
    here = snapshot.keyframes[number].T_WC[:3]
    linked = sorted({j for i, j in snapshot.edges if i == number})
    by_baseline = sorted(
        linked, key=lambda j: float(torch.linalg.vector_norm(snapshot.keyframes[j].T_WC[:3] - here))
    )
    if len(by_baseline) <= count:
        return by_baseline
    step = (len(by_baseline) - 1) / (count - 1)
    return [by_baseline[round(n * step)] for n in range(count)]
