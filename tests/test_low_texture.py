"""Low texture: faint walls are searched finer and weigh little; they are no failure."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stress import Stress, low_texture, write
from torch import Tensor

from slam.config import FlowSettings, load_config
from slam.evaluation import evaluate
from slam.frame import SOLVED, InverseDepth, PairGuess
from slam.lie import se3_from_matrix
from slam.mapping import project_grid
from slam.predictors import FlowPredictor
from slam.rendering import render_depth
from slam.sources import open_source
from slam.system import Slam
from slam.trajectory import Trajectory

FRAMES = 60  # two seconds
GAP = 10  # frames from a keyframe on


@dataclass(frozen=True, slots=True)
class Room:
    """A faint room, recorded."""

    stress: Stress
    folder: Path


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    whole = low_texture()
    parts = {name: getattr(whole, name)[:FRAMES] for name in ("times", "gain", "exposure")}
    stress = replace(whole, **parts)
    return Room(stress, write(stress, tmp_path_factory.mktemp("room")))


def run(room: Room, *settings: str) -> float:
    """RMSE in m; every frame must have a pose that was measured."""
    source = open_source(room.folder)
    assert source.ground_truth is not None
    with closing(Slam(source.camera, load_config(None, list(settings)))) as slam:
        for image in source.images():
            slam.feed(image)
        slam.finish()
        records = slam.graph.records()
        assert all(record.state in SOLVED for record in records)
        path = Trajectory(
            np.array([r.time for r in records]),
            np.stack([slam.graph.T_WC(r).numpy() for r in records]),
        )
    return evaluate(path, source.ground_truth).ate_sim3.rmse


@pytest.mark.slow
def test_a_finer_search_makes_faint_walls_more_accurate(room: Room) -> None:
    assert run(room) < min(0.9 * run(room, "flow.clear=0"), 0.006)


def whitened(room: Room, texture_noise: float) -> Tensor:
    """Errors of the flow along the sequence, in standard deviations."""
    source, settings = open_source(room.folder), FlowSettings(texture_noise=texture_noise)
    images, errors = list(source.images()), []
    with closing(FlowPredictor(source.camera.width, source.camera.height, settings)) as predictor:
        grid = predictor.grid
        intrinsics = source.camera.resized(grid.width, grid.height).intrinsics
        surfaces = room.stress.scene().surfaces
        for first in range(0, FRAMES - GAP, GAP):
            T_WC = room.stress.poses(room.stress.times[[first, first + GAP]])
            depth = grid.sample(
                render_depth(surfaces, intrinsics, grid.width, grid.height, T_WC[0])
            )
            known = InverseDepth(1 / depth.float(), torch.ones(len(depth)))
            T_fk = se3_from_matrix(torch.linalg.inv(T_WC[1]) @ T_WC[0])
            true, _ = project_grid(grid, known, T_fk, intrinsics)
            features = [predictor.encode(images[i]) for i in (first, first + GAP)]
            found = predictor.pair(*features, PairGuess()).forward
            error = torch.linalg.vector_norm(found.target - true, dim=-1)
            errors.append((error * found.weight.sqrt())[found.weight > 0])
    return torch.cat(errors)


def test_faint_measurements_weigh_little(room: Room) -> None:
    """1.18 standard deviations is the median of a two-dimensional normal error."""
    assert float(whitened(room, FlowSettings().texture_noise).median()) < 1.18
    assert float(whitened(room, 0.0).median()) > 1.18
