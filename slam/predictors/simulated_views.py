"""The simulated network where the pointmap predictor wants one with weights."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from slam.frame import Image, PointmapView
from slam.predictors.pointmap import Tokens, first_of_batch
from slam.predictors.simulated import SimulatedNetwork


class SimulatedViews:
    """A testing tool: true depth and poses in place of a network."""

    def __init__(self, network: SimulatedNetwork, known: Collection[int]) -> None:
        """Args: known: frames that have depth and pose; it is blind to the others."""
        self.network = network
        self.known = frozenset(known)

    def encode(self, image: Image, rgb: Tensor) -> Tokens:
        """From the image's index alone."""
        return self.network.encode([image.index]) if image.index in self.known else None

    def decode(self, first: Tokens, second: Tokens) -> tuple[PointmapView, PointmapView]:
        """One pair."""
        camera = self.network.world.camera
        one, two = self.network.decode(first, second, (camera.height, camera.width))
        return first_of_batch(one), first_of_batch(two)
