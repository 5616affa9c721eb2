"""A rendered room for the simulated network: cheap to cast, with things that hide others."""

from __future__ import annotations

from functools import partial

from slam.camera import Camera
from slam.predictors.posed_depth import DepthView, RenderedDepth
from slam.rendering import SceneBuilder, Surface, sample_times, sample_trajectory, standing
from slam.rendering.texture import flat

CAMERA = Camera("pinhole", 96, 72, (80.0, 82.0, 47.0, 36.5))
SIZE = (72, 96)


def room() -> tuple[Surface, ...]:
    """Walls of the sample's room, with a few things in it."""
    build = SceneBuilder()
    plain = build.paint(partial(flat, (0.5, 0.5, 0.5)))
    build.box(standing(3.0, 2.5, 1.5), (6.0, 5.0, 3.0), [plain], inside=True)
    build.box(standing(2.2, 4.2, 0.6, 30), (0.8, 0.7, 1.2), [plain])
    build.box(standing(4.9, 3.4, 0.5, 70), (0.6, 0.9, 1.0), [plain])
    build.sphere((3.1, 4.0, 1.1), 0.4, plain)
    return tuple(build.surfaces)


class CountingWorld:
    """A rendered room that notes which frames were read."""

    def __init__(self) -> None:
        T_WC = sample_trajectory().poses(sample_times())
        self.inner = RenderedDepth(room(), CAMERA, T_WC)
        self.camera = CAMERA
        self.reads: list[int] = []
        self.views: dict[int, DepthView] = {}

    def read(self, index: int) -> DepthView:
        self.reads.append(index)
        if index not in self.views:
            self.views[index] = self.inner.read(index)
        return self.views[index]
