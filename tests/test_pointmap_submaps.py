"""A camera on pointmaps that is carried off: submaps, and one map again where it comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from unittest import mock

import pytest
import torch
from pointmap_runs import CAMERA, NOISE, STRIDE, WORLD, Finished, configured, path_error
from torch import Tensor

from slam.config import Config
from slam.frame import SOLVED, Image, TrackState
from slam.map_parts import parts_of
from slam.predictors import Grid, PointmapPredictor
from slam.predictors.pointmap import Tokens, Views
from slam.predictors.simulated import SimulatedNetwork
from slam.predictors.simulated_views import SimulatedViews
from slam.system import Slam

RATE = 4.0  # images/s
SEEN, UNSEEN = range(280, 215, -5), range(140, 100, -5)  # of the room's round
BACK = [*range(100, -1, -5), *range(295, 250, -5)]  # from what is unseen to what was seen first


@dataclass(frozen=True, slots=True)
class Played:
    """A simulation that is shown the room's frames in another order."""

    network: SimulatedViews
    order: Sequence[int]

    def encode(self, image: Image, rgb: Tensor) -> Tokens:
        return self.network.encode(replace(image, index=self.order[image.index]), rgb)

    def decode(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[Views]:
        return self.network.decode(pairs)


def played(order: Sequence[int], config: Config, *, calibrated: bool = True) -> Finished:
    """A run on the room's frames in an order."""
    views = SimulatedViews(SimulatedNetwork(WORLD, config.simulated), range(300))
    grid = Grid(CAMERA.width, CAMERA.height, STRIDE)
    predictor = PointmapPredictor(Played(views, order), grid, config.matching)
    with mock.patch("slam.system.make_predictor", return_value=predictor):
        slam = Slam(CAMERA, config, calibrated=calibrated)
    try:
        steps = [slam.feed(image(place, frame)) for place, frame in enumerate(order)]
        slam.finish()
        return Finished(slam, steps)
    finally:
        slam.close()


def image(place: int, frame: int) -> Image:
    """What is near looks alike."""
    random = torch.Generator().manual_seed(frame // 30)
    rgb = torch.randint(0, 255, (CAMERA.height, CAMERA.width, 3), generator=random)
    return Image(place, place / RATE, place / RATE, rgb.to(torch.uint8))


def impatient(*, dense: bool = True, focal_sigma: float = 0.02) -> Config:
    """Many keyframes, and submaps soon."""
    config = configured(NOISE, keyframe_overlap=0.75, dense=dense, focal_sigma=focal_sigma)
    return replace(config, relocalization=replace(config.relocalization, patience=0.5))


def test_in_an_unseen_place_a_submap_is_begun_and_kept_apart() -> None:
    order = [*SEEN, *UNSEEN]
    finished = played(order, impatient())
    parts = parts_of(finished.slam.graph)
    assert len(parts) == 2
    first, second = sorted(parts, key=lambda part: part.name)
    assert len(first.posed) >= len(SEEN) and len(second.posed) >= len(UNSEEN) - 2
    for part in parts:
        T_WC = [part.graph.T_WC(r) for r in part.posed]
        assert path_error(T_WC, [order[r.index] for r in part.posed]) < 0.02
    lost = [s.record.index for s in finished.steps if s.record.state is TrackState.LOST]
    assert lost == [13, 14] and finished.steps[15].submap > 0


@pytest.mark.parametrize("on_rays", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_where_it_comes_back_all_is_one_map(on_rays: bool) -> None:
    order = [*SEEN, *UNSEEN, *BACK]
    config = impatient(dense=False, focal_sigma=1e-6) if on_rays else impatient()
    finished = played(order, config, calibrated=not on_rays)
    graph = finished.slam.graph
    assert finished.steps[20].submap > 0
    assert not graph.submaps.several
    posed = [r for r in graph.records() if r.state in SOLVED]
    assert len(posed) >= len(order) - 2
    assert path_error([graph.T_WC(r) for r in posed], [order[r.index] for r in posed]) < 0.02


def test_a_camera_that_sees_nothing_twice_begins_no_submap() -> None:
    """Every frame after the first ones shows another corner of the room."""
    order = [*SEEN, 130, 30, 160, 60, 120, 20, 150, 50]
    graph = played(order, impatient()).slam.graph
    assert not graph.submaps.several


def test_a_memory_budget_changes_nothing() -> None:
    order = [*SEEN[::2], *UNSEEN]
    poses = []
    for budget in (None, 8000.0):
        config = impatient()
        config = replace(config, run=replace(config.run, memory_budget=budget))
        graph = played(order, config).slam.graph
        assert graph.submaps.several
        poses.append(torch.stack([graph.T_WC(r) for r in graph.records()]))
    assert torch.equal(*poses)
