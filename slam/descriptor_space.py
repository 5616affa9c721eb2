"""What place recognition has to know of descriptors: distances, means and signatures of bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

_BITS_OF = np.array([n.bit_count() for n in range(1 << 16)], np.uint8)


class Space(Protocol):
    """Descriptors of one kind. `points` are always as `check` gives them."""

    @property
    def bits(self) -> int:
        """Of a signature."""
        ...

    def check(self, descriptors: np.ndarray | Tensor) -> np.ndarray:
        """Points [n, ...] of descriptors. ValueError for another shape or type, or a NaN."""
        ...

    def distances(self, points: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """[n, K], less something that is the same for all centres."""
        ...

    def means(self, points: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
        """Centres [groups, ...] of points [n, ...] that are in group [n] each; none is empty."""
        ...

    def signatures(
        self, points: np.ndarray, centres: np.ndarray, group: np.ndarray, groups: int
    ) -> np.ndarray:
        """Signatures [groups, S] uint64 of points, each with the centre [n, ...] of its word."""
        ...


@dataclass(frozen=True, slots=True)
class Binary:
    """Descriptors of bits, compared by how many differ: ORB. Points are [n, S] uint64."""

    bits: int = 256  # a multiple of 8

    def check(self, descriptors: np.ndarray | Tensor) -> np.ndarray:
        """Args: descriptors: [n, bits / 8] uint8."""
        found = np.asarray(descriptors)
        if found.ndim != 2 or found.shape[1] * 8 != self.bits or found.dtype != np.uint8:
            raise _wrong(f"[n, {self.bits // 8}] uint8", found)
        return np.pad(found, ((0, 0), (0, -found.shape[1] % 8))).view(np.uint64)

    def distances(self, points: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """Bits that differ, uint16."""
        return hamming(points[:, None], centres)

    def means(self, points: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
        """What most say, bit by bit; 1 where they are divided."""
        signs = self._bits(points).astype(np.float32) * 2 - 1
        return pack(_sums(signs, group, groups) >= 0)

    def signatures(
        self, points: np.ndarray, centres: np.ndarray, group: np.ndarray, groups: int
    ) -> np.ndarray:
        """The mean itself: a residual, the bits in which it differs from the word's centre, would
        differ from another residual in the same word in just the same bits."""
        return self.means(points, group, groups)

    def _bits(self, points: np.ndarray) -> np.ndarray:
        return np.unpackbits(points.view(np.uint8), axis=1)[:, : self.bits]


@dataclass(frozen=True, slots=True)
class Real:
    """Descriptors of real numbers, compared by Euclidean distance: tokens of a network."""

    channels: int

    @property
    def bits(self) -> int:
        """One a channel."""
        return self.channels

    def check(self, descriptors: np.ndarray | Tensor) -> np.ndarray:
        """Args: descriptors: [n, channels], of any floating type. Returns float32."""
        found = np.asarray(descriptors)
        if found.ndim != 2 or found.shape[1] != self.channels or found.dtype.kind != "f":
            raise _wrong(f"[n, {self.channels}] real numbers", found)
        if not np.isfinite(found).all():
            raise ValueError("descriptors: wanted finite numbers, got NaN or infinity")
        return found.astype(np.float32)

    def distances(self, points: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """Squared, less |point|^2."""
        return np.square(centres).sum(1) - 2 * (points @ centres.T)

    def means(self, points: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
        """Arithmetic."""
        return _sums(points, group, groups) / np.bincount(group)[:, None].astype(np.float32)

    def signatures(
        self, points: np.ndarray, centres: np.ndarray, group: np.ndarray, groups: int
    ) -> np.ndarray:
        """Signs of the summed residuals from the words' centres."""
        return pack(_sums(points - centres, group, groups) >= 0)


def pack(bits: np.ndarray) -> np.ndarray:
    """Signatures [n, S] uint64 of [n, D] bool; what fills the last number up is zero."""
    padded = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 64)))
    return np.packbits(padded, axis=1).view(np.uint64)


def count_bits_by_table(values: np.ndarray) -> np.ndarray:
    """Set bits of each uint64, for a numpy that cannot count them (before 2.0)."""
    parts = np.ascontiguousarray(values)[..., None].view(np.uint16)
    return _BITS_OF[parts].sum(-1, dtype=np.uint8)


count_bits: Callable[[np.ndarray], np.ndarray] = getattr(np, "bitwise_count", count_bits_by_table)


def hamming(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Bits [...] uint16 in which signatures [..., S] uint64 differ; shapes are broadcast."""
    shape = np.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    differing = np.zeros(shape, np.uint16)
    for part in range(first.shape[-1]):
        differing += count_bits(first[..., part] ^ second[..., part])
    return differing


def _sums(rows: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Sums [groups, D] of the rows [n, D] that are in each group."""
    one = np.ones(len(rows), rows.dtype)
    return csr_array((one, (group, np.arange(len(rows)))), shape=(groups, len(rows))) @ rows


def _wrong(wanted: str, found: np.ndarray) -> ValueError:
    got = f"{list(found.shape)} {found.dtype}"
    return ValueError(f"descriptors: wanted {wanted}, got {got}; one index takes one kind")
