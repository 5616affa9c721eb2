"""Predictors: from two images to where the pixels of one land in the other."""

from __future__ import annotations

from typing import Protocol

from slam.config import FlowSettings
from slam.frame import Features, Image, PairGuess, PairPrediction, Pointmap
from slam.networks.raft_small import load_raft_small
from slam.predictors.flow import FlowPredictor
from slam.predictors.grid import Grid
from slam.predictors.raft import RaftFlowPredictor

__all__ = ["FlowPredictor", "Grid", "Predictor", "RaftFlowPredictor", "make_predictor"]


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


def make_predictor(width: int, height: int, settings: FlowSettings) -> Predictor:
    """The predictor that the settings name, for images of `width` x `height` px.

    Raises ValueError or FileNotFoundError where it lacks its weights.
    """
    if settings.method == "dis":
        return FlowPredictor(width, height, settings)
    if not settings.weights:
        raise ValueError(
            f"flow.method {settings.method} wants the weights of RAFT-small, got none; name the "
            "file (--flow-weights raft-small.pth), or take --flow dis, which needs none"
        )
    return RaftFlowPredictor(width, height, settings, load_raft_small(settings.weights))
