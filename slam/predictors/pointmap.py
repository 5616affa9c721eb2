"""The pointmap predictor: two-view pointmaps from a network, then matches between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import torch
from torch import Tensor

from slam.config import MatchingSettings
from slam.frame import (
    Correspondence,
    Features,
    Image,
    PairGuess,
    PairPrediction,
    Pointmap,
    PointmapMatch,
    PointmapView,
)
from slam.matching import believed, match, overlap
from slam.networks.pointmap import PointmapNetwork
from slam.predictors.flow import smaller_eigenvalue
from slam.predictors.grid import SMALLEST, Grid

Views = tuple[PointmapView, PointmapView]  # of a pair, both in its first image's camera
Tokens = Any  # what a network keeps of one image: [1, S, width] or SimulatedTokens; None = blind


@dataclass(frozen=True, slots=True)
class PointmapFeatures(Features):
    """What the pointmap predictor keeps of one image."""

    tokens: Tokens  # from the network's encoder; None = it can say nothing of this image


class ViewNetwork(Protocol):
    """A two-view network on images of one size."""

    def encode(self, image: Image, rgb: Tensor) -> Tokens:
        """Tokens of an image. Args: rgb: [h, w, 3] uint8, at working size."""
        ...

    def decode(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[Views]:
        """Views [h, w, ...] of both images of each pair, all pairs at once."""
        ...


class LoadedViews:
    """A network with its weights, on its device."""

    def __init__(self, network: PointmapNetwork, width: int, height: int) -> None:
        """Args: width, height: px of the working images."""
        self.network = network
        self.size = (height, width)
        self.device = network.patch_embed.proj.weight.device

    def encode(self, image: Image, rgb: Tensor) -> Tokens:
        """From the working image."""
        return self.network.encode(rgb.to(self.device).permute(2, 0, 1)[None] / 127.5 - 1)

    def decode(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[Views]:
        """One batch."""
        first, second = (torch.cat(tokens) for tokens in zip(*pairs, strict=True))
        one, two = self.network.decode(first, second, self.size)
        return [(of_batch(one, n), of_batch(two, n)) for n in range(len(pairs))]


class PointmapPredictor:
    """Correspondences by matching pointmaps, which come along (see `Predictor`)."""

    def __init__(self, network: ViewNetwork, grid: Grid, settings: MatchingSettings) -> None:
        """Args: grid: of the working images that the network takes."""
        self.network = network
        self.grid = grid
        self.settings = settings
        every = Grid(grid.width, grid.height, 1)
        self._pixel = every.pixel

    def close(self) -> None:
        """There are no threads to end."""

    def encode(self, image: Image) -> PointmapFeatures:
        """Working images and tokens."""
        size = (self.grid.width, self.grid.height)
        smaller = size[0] < image.rgb.shape[1]
        how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
        rgb = torch.from_numpy(cv2.resize(image.rgb.numpy(), size, interpolation=how))
        grey = cv2.cvtColor(rgb.numpy(), cv2.COLOR_RGB2GRAY)
        texture = self.grid.sample(torch.from_numpy(smaller_eigenvalue(grey))).contiguous()
        tokens = self.network.encode(image, rgb)
        return PointmapFeatures(torch.from_numpy(grey), rgb, texture, tokens)

    def single(self, features: Features) -> Pointmap:
        """The image decoded with itself; confidence 0 where the network is blind."""
        tokens = _tokens(features)
        if tokens is None:
            return self._nothing()
        [(view, _)] = self.network.decode([(tokens, tokens)])
        return Pointmap(view.X.cpu(), view.confidence.cpu())

    def pair(
        self,
        keyframe: Features,
        frame: Features,
        guess: PairGuess,
        *,
        fine: bool = False,
        one_thread: bool = False,
    ) -> PairPrediction:
        """The keyframe's pixels sought in the frame; with `fine`, the frame's in it, too.

        The dense flow of the result is of all pixels: those without a match have the nearest place.
        """
        one, other = _tokens(keyframe), _tokens(frame)
        views: list[Views | None] = [None, None]
        if one is not None and other is not None:
            wanted = [(other, one), (one, other)][: 2 if fine else 1]
            views[: len(wanted)] = self.network.decode(wanted)
        ahead, flow = self._seek(views[0], guess.forward)
        behind, back = self._seek(views[1], guess.backward) if fine else (None, None)
        forward = self._on_grid(ahead.match)
        valid = forward.weight > 0
        length = torch.linalg.vector_norm(forward.target - self.grid.pixel, dim=-1)[valid]
        return PairPrediction(
            forward=forward,
            backward=self._on_grid(self._no_match() if behind is None else behind.match),
            flow=PairGuess(flow, back),
            match_fraction=overlap(ahead),
            median_flow=float(length.median()) if len(length) else 0.0,
            sharpness=1.0,
            ahead=ahead,
            behind=behind,
        )

    def _seek(
        self, views: Views | None, guess: Tensor | None
    ) -> tuple[PointmapMatch, Tensor | None]:
        """All pixels of a pair's second image sought in its first, and the flow [h, w, 2] there."""
        if views is None:
            return PointmapMatch(self._nothing(), self._nothing(), self._no_match()), None
        one, two = views
        start = None
        if guess is not None:
            start = (self._pixel + guess.reshape(-1, 2)).to(one.X.device)
        found = match(one, two, self.settings, start)
        found = believed(one, two, found, self.settings)
        found = Correspondence(found.target.cpu(), found.weight.cpu())
        there, here = (Pointmap(view.X.cpu(), view.confidence.cpu()) for view in (one, two))
        flow = (found.target - self._pixel).reshape(self.grid.height, self.grid.width, 2)
        return PointmapMatch(there, here, found), flow

    def _on_grid(self, found: Correspondence) -> Correspondence:
        """The matches of the grid pixels among those of all."""
        size = (self.grid.height, self.grid.width)
        target = self.grid.sample(found.target.reshape(*size, 2))
        weight = self.grid.sample(found.weight.reshape(size))
        return Correspondence(target.contiguous(), weight.contiguous())

    def _nothing(self) -> Pointmap:
        size = (self.grid.height, self.grid.width)
        return Pointmap(torch.zeros(*size, 3), torch.zeros(size))

    def _no_match(self) -> Correspondence:
        return Correspondence(self._pixel, torch.zeros(len(self._pixel)))


def whole_patches(width: int, height: int, long_side: int, patch: int) -> tuple[int, int]:
    """(width, height) px of working images: sides of whole patches, the long one `long_side`.

    Sides are rounded to patches, which changes the shape of pixels a little, rather than cropped:
    so every pixel of the image is worked on, and the camera is the same but for its focal lengths.

    Raises ValueError for images, or a long side, too small to work with.
    """
    if min(width, height) < SMALLEST:
        raise ValueError(
            f"images want at least {SMALLEST} px on each side, got {width} x {height}; "
            "take larger ones"
        )
    scale = long_side / max(width, height)
    wide, high = (patch * max(round(side * scale / patch), 1) for side in (width, height))
    return wide, high


def _tokens(features: Features) -> Tokens:
    if not isinstance(features, PointmapFeatures):
        raise TypeError(f"wanted features of the pointmap predictor, got {type(features).__name__}")
    return features.tokens


def of_batch(view: PointmapView, n: int) -> PointmapView:
    """The view of one pair of a batch."""
    local, trust = view.descriptor, view.descriptor_confidence
    return PointmapView(
        view.X[n],
        view.confidence[n],
        None if local is None else local[n],
        None if trust is None else trust[n],
    )
