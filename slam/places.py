"""Which keyframes look like an image, for the frontend (lost) and the backend (loops)."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from slam.config import Config
from slam.corners import Corners, orb
from slam.descriptor_space import Binary, Real
from slam.frame import Frame, Keyframe
from slam.networks.retrieval_head import RetrievalHead, load_retrieval_head
from slam.paging import Pages
from slam.predictors import PointmapPredictor, Predictor
from slam.predictors.pointmap import LoadedViews, PointmapFeatures
from slam.retrieval import Candidate, Retrieval
from slam.vocabulary import Vocabulary, load_codebook


class Places:
    """The keyframes' corners, and an index of what they look like. One thread adds, any may ask."""

    def __init__(
        self,
        config: Config,
        head: RetrievalHead | None = None,
        codebook: Vocabulary | None = None,
        pages: Pages | None = None,
    ) -> None:
        """Args:
        head: makes a network's tokens comparable, on the CPU; None = corners are compared.
        codebook: words for what the head makes; None = they are learnt on the way.
        pages: keep the corners; None = memory does.
        """
        self.pages = pages or Pages()
        self.config = config
        self.head = head
        self.codebook = codebook
        self._lock = threading.Lock()
        self._corners: dict[int, Corners] = {}  # by the index of the keyframe's image
        self.clear()

    def clear(self) -> None:
        """Forgets the keyframes; their corners are kept: an image's stay the same."""
        space = Binary() if self.head is None else Real(self.head.out_channels)
        with self._lock:
            self._retrieval = Retrieval(space, self.config.retrieval, self.codebook)

    def take(self, keyframes: Sequence[Keyframe]) -> None:
        """Adds those keyframes, a map's first ones in order, that are not known yet."""
        for number in range(len(self), len(keyframes)):
            self.corners(keyframes[number])
            descriptors = self._descriptors(keyframes[number].frame)
            with self._lock:
                self._retrieval.add(number, descriptors)

    def __len__(self) -> int:
        with self._lock:
            return len(self._retrieval)

    def similar(
        self, frame: Frame, most: int, *, exclude_after: int | None = None
    ) -> list[Candidate]:
        """Keyframes that look like an image, best first.

        Args: exclude_after: keyframes of larger numbers are left out.
        """
        descriptors = self._descriptors(frame)
        with self._lock:
            return self._retrieval.query(descriptors, most=most, exclude_after=exclude_after)

    def corners(self, keyframe: Keyframe) -> Corners:
        """Of a keyframe; found once."""
        index = keyframe.frame.index
        if index not in self._corners:
            self._corners[index] = self.pages.keep(self.of(keyframe.frame))
        return self._corners[index]

    def of(self, frame: Frame) -> Corners:
        """Corners of any image; those of keyframes are known."""
        known = self._corners.get(frame.index)
        return known or orb(frame.features, self.config.relocalization.features)

    def _descriptors(self, frame: Frame) -> np.ndarray | Tensor:
        """What is compared: corners, or what the head makes of the network's tokens."""
        if self.head is None:
            return self.of(frame).descriptor
        features = frame.features
        if not isinstance(features, PointmapFeatures) or features.tokens is None:
            return np.empty((0, self.head.out_channels), np.float32)
        return self.head(features.tokens[0].float().cpu())


def make_places(config: Config, predictor: Predictor, pages: Pages | None = None) -> Places:
    """With the head and the codebook that a configuration names.

    Args: pages: keep the corners; None = memory does.
    Raises ValueError or FileNotFoundError where a file is none, or they do not fit the network.
    """
    chosen = config.retrieval
    if not chosen.head:
        if chosen.codebook:
            raise ValueError(
                f"codebook {chosen.codebook} wants retrieval.head, got none; name both, or neither"
            )
        return Places(config, pages=pages)
    head = load_retrieval_head(chosen.head)
    views = predictor.network if isinstance(predictor, PointmapPredictor) else None
    if not isinstance(views, LoadedViews):
        raise ValueError(
            f"retrieval head {chosen.head} wants --predictor mast3r, got {config.predictor}; "
            "leave it out"
        )
    width = views.network.sizes.encoder.width
    if head.channels != width:
        raise ValueError(
            f"retrieval head {chosen.head} wants tokens of {head.channels} channels, the network's "
            f"have {width}; take the head that belongs to it"
        )
    codebook = load_codebook(chosen.codebook) if chosen.codebook else None
    return Places(config, head, codebook, pages)
