"""Predictors: from two images to where the pixels of one land in the other.

What makes the one that a configuration names is in `slam.predictors.factory`.
"""

from __future__ import annotations

from typing import Protocol

from slam.frame import Features, Image, PairGuess, PairPrediction, Pointmap
from slam.predictors.flow import FlowPredictor
from slam.predictors.grid import Grid
from slam.predictors.pointmap import PointmapPredictor
from slam.predictors.raft import RaftFlowPredictor

__all__ = [
    "FlowPredictor",
    "Grid",
    "PointmapPredictor",
    "Predictor",
    "RaftFlowPredictor",
]


class Predictor(Protocol):
    """The seam: everything above it is the same whatever geometry comes from."""

    grid: Grid

    def encode(self, image: Image) -> Features:
        """Features of one image, once a frame."""
        ...

    def single(self, features: Features) -> Pointmap:
        """A first guess of the points of one image, with confidence."""
        ...

    def pair(
        self,
        keyframe: Features,
        frame: Features,
        guess: PairGuess,
        *,
        fine: bool = False,
        one_thread: bool = False,
    ) -> PairPrediction:
        """Where the keyframe's grid pixels land in the frame, and the frame's in the keyframe.

        Args:
            guess: dense flow to start from.
            fine: spend more time on sub-pixel precision (edges between keyframes).
            one_thread: use the caller's only (other pairs are measured at the same time).
        """
        ...

    def close(self) -> None:
        """Ends what threads there are."""
        ...
