"""The pointmap system on a simulated network in a rendered room: runs of a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import torch
from simulated_room import CAMERA, CountingWorld
from torch import Tensor

from slam.camera import Camera
from slam.config import Config, PointmapSettings, SimulatedSettings
from slam.evaluation.alignment import transform_points, umeyama
from slam.frame import Image, Step
from slam.predictors import Grid, PointmapPredictor
from slam.predictors.pointmap import Tokens, Views
from slam.predictors.simulated import SimulatedNetwork
from slam.predictors.simulated_views import SimulatedViews
from slam.system import Slam

WORLD = CountingWorld()  # keeps the depth maps it has cast
FRAMES = range(0, 150, 10)  # half round the room
STRIDE = 4  # px of the grid
FINEST = 1.0  # m, of the descriptors: some pixels
NOISE = {"pair_scale": 0.05, "warp": 0.02, "noise": 0.01}


@dataclass(frozen=True, slots=True)
class Finished:
    """A run, and what it published on the way."""

    slam: Slam
    steps: list[Step]

    @property
    def path_error(self) -> float:
        """ATE of all frames over the length of their path."""
        return path_error([self.slam.graph.T_WC(r) for r in self.slam.graph.records()], self.frames)

    @property
    def causal_error(self) -> float:
        """The same of the poses as they were published."""
        return path_error([s.T_WC for s in self.steps if s.T_WC is not None], self.frames)

    @property
    def frames(self) -> list[int]:
        return [step.record.index for step in self.steps]


@dataclass(frozen=True, slots=True)
class InUnits:
    """A network whose points are in other units than metres."""

    network: SimulatedViews
    metre: float  # in its units

    def encode(self, image: Image, rgb: Tensor) -> Tokens:
        return self.network.encode(image, rgb)

    def decode(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[Views]:
        return [
            (replace(one, X=one.X * self.metre), replace(two, X=two.X * self.metre))
            for one, two in self.network.decode(pairs)
        ]


def path_error(T_WC: Sequence[Tensor], frames: Sequence[int]) -> float:
    truth = np.stack([WORLD.read(index).T_WC[:3].numpy() for index in frames])
    positions = np.stack([pose[:3].numpy() for pose in T_WC])
    aligned = transform_points(umeyama(positions, truth, with_scale=True), positions)
    length = np.linalg.norm(np.diff(truth, axis=0), axis=1).sum()
    return float(np.sqrt(((aligned - truth) ** 2).sum(1).mean()) / length)


def configured(
    noise: dict[str, float] | None = None, *, ahead: int = 4, **settings: object
) -> Config:
    """Keyframes that overlap enough for dense bundle adjustment.

    Args: noise: of the simulated network. settings: of the pointmap path.
    """
    config = Config(predictor="simulated")
    pointmap = PointmapSettings(grid_stride=STRIDE, keyframe_overlap=0.6)
    return replace(
        config,
        run=replace(config.run, threads=1, ahead=ahead),
        pointmap=replace(pointmap, **settings),  # type: ignore[arg-type]
        simulated=SimulatedSettings(seed=5, finest=FINEST, **(noise or {})),  # type: ignore[arg-type]
    )


@contextmanager
def started(
    config: Config,
    *,
    focal_factor: float | None = None,
    blind: Sequence[int] = (),
    metre: float = 1.0,
) -> Iterator[Slam]:
    """The system on the room. Args: focal_factor: how wrong the guess is; None = calibrated.

    blind: frames without depth and pose. metre: in the units of the network's points.
    """
    known = [n for n in range(300) if n not in blind]
    views = SimulatedViews(SimulatedNetwork(WORLD, config.simulated), known)
    grid = Grid(CAMERA.width, CAMERA.height, STRIDE)
    predictor = PointmapPredictor(InUnits(views, metre), grid, config.matching)
    fx, fy, cx, cy = CAMERA.intrinsics
    factor = focal_factor or 1.0
    camera = Camera("pinhole", CAMERA.width, CAMERA.height, (factor * fx, factor * fy, cx, cy))
    with mock.patch("slam.system.make_predictor", return_value=predictor):
        slam = Slam(camera, config, calibrated=focal_factor is None)
    try:
        yield slam
    finally:
        slam.close()


def run(
    config: Config,
    frames: Sequence[int] = FRAMES,
    *,
    focal_factor: float | None = None,
    blind: Sequence[int] = (),
    metre: float = 1.0,
) -> Finished:
    """Feeds frames of the room and finishes."""
    with started(config, focal_factor=focal_factor, blind=blind, metre=metre) as slam:
        steps = [slam.feed(image(index)) for index in frames]
        slam.finish()
        return Finished(slam, steps)


def image(index: int) -> Image:
    """A picture with as much texture as the network needs: none. It looks at the index."""
    random = torch.Generator().manual_seed(index // 60)
    rgb = torch.randint(0, 255, (CAMERA.height, CAMERA.width, 3), generator=random)
    return Image(index, index / 30, index / 30, rgb.to(torch.uint8))
