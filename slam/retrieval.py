"""Place recognition: which earlier keyframes look like an image, by aggregated match kernels.

ASMK (Tolias, Avrithis & Jegou, IJCV 2016): what an image has in each visual word is summed up and
kept as bits; two images are as alike as the bits of the words they share. The same for tokens of a
network and for binary corners; `descriptor_space` has what differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from slam.descriptor_space import Binary, Space
from slam.inverted_file import InvertedFile
from slam.retrieval_settings import RetrievalSettings
from slam.vocabulary import Vocabulary

STAGE = 4  # factor of the number of keyframes between two learnings of the vocabulary


@dataclass(frozen=True, slots=True)
class Candidate:
    """A keyframe that looks like an image."""

    number: int  # as it was added
    score: float  # > 0; 1 = the same descriptors


class Retrieval:
    """Keyframes by what they look like.

    Without a vocabulary it learns one from the keyframes' own descriptors: at the 1st, 4th, 16th,
    ... keyframe, anew from all of them, the last time at `learn_until` keyframes (some seconds for
    600 corners of 256); from then on it stays, and their descriptors are let go. Results depend on
    the order of the keyframes only by that, and never on chance. For one thread at a time.
    """

    def __init__(
        self, space: Space, settings: RetrievalSettings, vocabulary: Vocabulary | None = None
    ) -> None:
        """Args: space: of the descriptors; vocabulary: one of the same space; None = it learns."""
        if vocabulary is not None and vocabulary.space != space:
            raise ValueError(
                f"vocabulary: wanted words for {space}, got words for {vocabulary.space}; take the "
                "codebook that belongs to the network"
            )
        self.space = space
        self.settings = settings
        self.vocabulary = vocabulary
        self._kept: dict[int, np.ndarray] | None = None if vocabulary else {}  # while it learns
        self._next_stage = 1  # keyframes that are kept when the vocabulary is learnt again
        binary = isinstance(space, Binary)
        self._assignments = settings.binary_assignments if binary else settings.assignments
        agreement = settings.binary_agreement if binary else settings.agreement
        self._similarity = selectivity(space.bits, settings.exponent, agreement)
        self._file = InvertedFile(space.bits, self._similarity)
        self._image: dict[int, int] = {}  # number of a keyframe: what the inverted file calls it
        self._numbers: list[int] = []  # the other way round

    def __len__(self) -> int:
        return len(self._image) if self._kept is None else len(self._kept)

    def __contains__(self, number: object) -> bool:
        return number in (self._image if self._kept is None else self._kept)

    @property
    def memory(self) -> int:
        """Bytes of the keyframes' entries, and of their descriptors while it learns."""
        return self._file.memory + sum(points.nbytes for points in (self._kept or {}).values())

    def add(self, number: int, descriptors: np.ndarray | Tensor) -> None:
        """A keyframe, which may have no descriptors at all.

        Args: descriptors: [n, ...] as the space wants them.
        Raises ValueError for another shape, a NaN, or a number that is taken.
        """
        if number in self:
            raise ValueError(f"number: wanted a new keyframe, got {number} again; remove it first")
        points = self.space.check(descriptors)
        if self._kept is None:
            self._index(number, points)
            return
        self._kept[number] = points
        if len(self._kept) >= self._next_stage and any(len(p) for p in self._kept.values()):
            self._learn()
        else:
            self._index(number, points)

    def remove(self, number: int) -> None:
        """Takes a keyframe out. Raises ValueError where there is none of this number."""
        if number not in self:
            raise ValueError(f"number: wanted a keyframe that was added, got {number}")
        if self._kept is not None:
            del self._kept[number]
        if number in self._image:
            self._file.remove(self._image.pop(number))

    def query(
        self,
        descriptors: np.ndarray | Tensor,
        *,
        exclude_after: int | None = None,
        most: int | None = None,
    ) -> list[Candidate]:
        """Keyframes that look like an image, best first; of equals the later one first.

        Args:
            descriptors: as for `add`.
            exclude_after: keyframes of larger numbers are left out: too recent to close a loop.
            most: candidates wanted; None = as the settings say.
        Raises ValueError for descriptors of another shape.
        """
        points = self.space.check(descriptors)
        if self.vocabulary is None or len(points) == 0:
            return []
        words, signatures = self.vocabulary.describe(points, self._assignments)
        score = self._file.scores(words, signatures)
        number = np.array(self._numbers, np.int64)
        allowed = score >= max(self.settings.minimum_score, np.finfo(np.float64).tiny)
        if exclude_after is not None:
            allowed &= number <= exclude_after
        found = np.flatnonzero(allowed)
        order = np.lexsort((-number[found], -score[found]))
        best = found[order][: self.settings.candidates if most is None else most]
        return [Candidate(int(number[n]), float(score[n])) for n in best]

    def _learn(self) -> None:
        """A new vocabulary from all keyframes, which are put in words again."""
        assert self._kept is not None
        points = np.concatenate(list(self._kept.values()))
        wanted = min(self.settings.words, max(1, len(points) // self.settings.descriptors_per_word))
        most = wanted * self.settings.descriptors_per_word
        sample = points[np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int)]
        self.vocabulary = Vocabulary.learn(self.space, sample, wanted)
        self._file = InvertedFile(self.space.bits, self._similarity)
        self._image, self._numbers = {}, []
        for number, kept in self._kept.items():
            self._index(number, kept)
        count, last = len(self._kept), self.settings.learn_until
        self._next_stage = min(count * STAGE, last)
        if count >= last:
            self._kept = None

    def _index(self, number: int, points: np.ndarray) -> None:
        if self.vocabulary is None:
            return
        words, signatures = self.vocabulary.describe(points, 1)
        self._image[number] = self._file.add(words, signatures)
        self._numbers.append(number)


def selectivity(bits: int, exponent: float, agreement: float) -> np.ndarray:
    """What a shared word counts, [bits + 1] float64, by the bits that differ: u^exponent.

    u = 1 - 2 differing / bits; nothing where it is not above `agreement`.
    """
    u = 1 - 2 * np.arange(bits + 1) / bits
    return np.where(u > agreement, np.maximum(u, 0) ** exponent, 0.0)
