"""Edges that a run accepts between keyframes far apart in time: how many are right, how many found.

`python -m tests.edge_recall SOURCE [section.key=value ...]`, of a source with true poses and depth
maps (`tests.building` writes one). A place is seen again where more than 40 % of the pixels of two
keyframes are the same surface; an edge is wrong where less than 5 % are.
"""

from __future__ import annotations

import sys
from contextlib import closing

import numpy as np
import torch

from slam.config import load_config
from slam.evaluation import evaluate
from slam.frame import Frame
from slam.lie import se3_matrix
from slam.predictors.posed_depth import SourceDepth
from slam.retrieval import Candidate
from slam.sources import Source, open_source
from slam.system import Slam
from slam.trajectory import Trajectory
from tests.place_overlap import overlaps

APART = 10  # keyframes between two that are far apart in time
SAME, WRONG = 0.4, 0.05  # overlaps
COARSE = (40, 30)  # px of the depth maps compared


def true_overlap(source: Source, indices: list[int]) -> np.ndarray:
    """Overlap [N, N] of some images of a source."""
    world = SourceDepth(source, *COARSE)
    views = [world.read(index) for index in indices]
    depth = torch.stack([view.depth for view in views]).numpy()
    T_WC = se3_matrix(torch.stack([view.T_WC for view in views])).numpy()
    return overlaps(depth, T_WC, world.camera.intrinsics)


def table(slam: Slam, source: Source) -> dict[str, float]:
    """Precision and recall of what looks alike and of the edges that were made."""
    keyframes = slam.graph.keyframes()
    overlap = true_overlap(source, [k.frame.index for k in keyframes])
    number = np.arange(len(keyframes))
    far = number[:, None] - number > APART
    edges = np.zeros_like(far)
    for i, j in slam.graph.edges():
        edges[max(i, j), min(i, j)] = True
    looks = np.zeros_like(far)
    for n, keyframe in enumerate(keyframes):
        for found in _alike(slam, keyframe.frame, n):
            looks[n, found.number] = True
    again = np.any(far & (overlap > SAME), axis=1)
    return {
        "keyframes": len(keyframes),
        "keyframes that see a place again": int(again.sum()),
        "look alike, precision": _share(overlap[far & looks] > SAME),
        "look alike, recall": _share(np.any(looks & far & (overlap > SAME), axis=1)[again]),
        "edges far apart": int((far & edges).sum()),
        "edges, precision": _share(overlap[far & edges] > WRONG),
        "edges, recall": _share(np.any(edges & far, axis=1)[again]),
    }


def _alike(slam: Slam, frame: Frame, number: int) -> list[Candidate]:
    places = slam.backend.places
    return places.similar(frame, 3, exclude_after=number - APART - 1)


def keyframe_error(slam: Slam, source: Source) -> float:
    """RMSE of the keyframes' positions after Sim(3) alignment, m."""
    keyframes = slam.graph.keyframes()
    times = np.array([k.frame.time for k in keyframes])
    path = Trajectory(times, torch.stack([k.T_WC for k in keyframes]).numpy())
    assert source.ground_truth is not None
    return evaluate(path, source.ground_truth).ate_sim3.rmse


def _share(right: np.ndarray) -> float:
    return float(np.mean(right)) if len(right) else float("nan")


def main(path: str, *overrides: str) -> None:
    """Runs a source and prints the table."""
    source = open_source(path)
    config = load_config(None, [f"source.path={path}", *overrides])
    with closing(Slam(source.camera, config, calibrated=source.calibrated)) as slam:
        for image in source.images():
            slam.feed(image)
        slam.finish()
        print(f"{'keyframe ATE, m':34} {keyframe_error(slam, source):.3g}")
        for name, value in table(slam, source).items():
            print(f"{name:34} {value:.3g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
