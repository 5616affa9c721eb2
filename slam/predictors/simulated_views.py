"""The simulated network where the pointmap predictor wants one with weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from slam.frame import PER_SOURCE, Image
from slam.predictors.pointmap import Tokens, Views, of_batch
from slam.predictors.simulated import SimulatedNetwork


class SimulatedViews:
    """A testing tool: true depth and poses in place of a network."""

    def __init__(self, network: SimulatedNetwork, known: Collection[int]) -> None:
        """Args: known: frames that have depth and pose; it is blind to the others."""
        self.network = network
        self.known = frozenset(known)

    def encode(self, image: Image, rgb: Tensor) -> Tokens:
        """From the image's index alone, whichever of a map's sources it is of."""
        index = image.index % PER_SOURCE
        return self.network.encode([index]) if index in self.known else None

    def decode(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[Views]:
        """One after the other: a pair's noise is its own."""
        camera = self.network.world.camera
        size = camera.height, camera.width
        views = [self.network.decode(*pair, size) for pair in pairs]
        return [(of_batch(one, 0), of_batch(two, 0)) for one, two in views]
