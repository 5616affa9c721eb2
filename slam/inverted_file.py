"""Inverted file: for every visual word the images that have it, each with a signature of bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from slam.descriptor_space import hamming

CHUNK = 1 << 17  # entries compared at once: their bits stay in the cache
SPARE = 4  # a list that is full grows by a quarter, by this many entries at least
SHARE_DEAD = 0.25  # of the images, removed, at which their entries are swept out


class _Posting:
    """The images of one word; arrays with room to spare."""

    __slots__ = ("count", "image", "signature")

    def __init__(self, numbers: int) -> None:
        self.count = 0
        self.image = np.empty(0, np.int32)
        self.signature = np.empty((0, numbers), np.uint64)

    def append(self, image: int, signature: np.ndarray) -> None:
        if self.count == len(self.image):
            room = self.count + max(SPARE, self.count // 4)
            self.image = _grown(self.image, room)
            self.signature = _grown(self.signature, room)
        self.image[self.count] = image
        self.signature[self.count] = signature
        self.count += 1

    def keep(self, alive: np.ndarray) -> None:
        """Drops the images that are not `alive` [images] bool."""
        kept = alive[self.image[: self.count]]
        self.image = self.image[: self.count][kept]
        self.signature = self.signature[: self.count][kept]
        self.count = len(self.image)


class InvertedFile:
    """Images as sets of words; how alike two are, by the signatures in the words they share.

    Entries are appended, at a cost that does not depend on how many there are. A search reads the
    lists of its words alone. Images are numbered as they are added, from 0. An entry takes 4 bytes
    and the signature's, with spare room about a tenth more: 23 kB for an image of 570 words of 256
    bits.
    """

    def __init__(self, bits: int, similarity: np.ndarray) -> None:
        """Args: similarity: [bits + 1] float64, what a shared word counts by bits that differ."""
        if similarity.shape != (bits + 1,):
            raise ValueError(f"similarity: wanted [{bits + 1}], got {list(similarity.shape)}")
        self.bits = bits
        self.similarity = similarity
        self._numbers = -(-bits // 64)  # 64 bits each
        self._postings: dict[int, _Posting] = {}
        self._words = np.empty(0, np.int32)  # of each image; 0 once it is removed
        self._count = 0
        self._dead = 0  # removed, but their entries are still there

    @property
    def memory(self) -> int:
        """Bytes of the entries, spare room included."""
        lists = self._postings.values()
        return self._words.nbytes + sum(p.image.nbytes + p.signature.nbytes for p in lists)

    def add(self, words: np.ndarray, signatures: np.ndarray) -> int:
        """An image: its words [n] int, ascending and none twice, and signatures [n, S] uint64.

        Returns the number that it is known by from now on.
        """
        image = self._count
        if image == len(self._words):
            self._words = _grown(self._words, image + max(SPARE, image // 4))
        self._words[image] = len(words)
        self._count += 1
        for word, signature in zip(words.tolist(), signatures, strict=True):
            posting = self._postings.get(word)
            if posting is None:
                posting = self._postings[word] = _Posting(self._numbers)
            posting.append(image, signature)
        return image

    def remove(self, image: int) -> None:
        """Takes an image out; its number is not used again."""
        self._words[image] = 0
        self._dead += 1
        if self._dead > SHARE_DEAD * self._count:
            self._sweep()

    def scores(self, words: np.ndarray, signatures: np.ndarray) -> np.ndarray:
        """Score [images] float64 of every image for one: 1 for the same; 0 where it is removed.

        The sum over shared words, normalised by the square root of what each has with itself.
        """
        total = np.zeros(self._count)
        for image, here, there in self._chunks(words, signatures):
            value = self.similarity[hamming(here, there)]
            total += np.bincount(image, value, minlength=self._count)
        own = self._words[: self._count] * float(len(words)) * self.similarity[0] ** 2
        return np.where(own > 0, total / np.sqrt(np.maximum(own, 1e-300)), 0.0)

    def _chunks(
        self, words: np.ndarray, signatures: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Entries of the words' lists, some thousands at once: images, both signatures."""
        found: list[tuple[_Posting, int]] = []
        entries = 0
        for row, word in enumerate(words.tolist()):
            posting = self._postings.get(word)
            if posting is None:
                continue
            found.append((posting, row))
            entries += posting.count
            if entries >= CHUNK:
                yield _gathered(found, signatures)
                found, entries = [], 0
        if found:
            yield _gathered(found, signatures)

    def _sweep(self) -> None:
        alive = self._words[: self._count] > 0
        for posting in self._postings.values():
            posting.keep(alive)
        self._dead = 0


def _gathered(
    found: list[tuple[_Posting, int]], signatures: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image = np.concatenate([posting.image[: posting.count] for posting, _ in found])
    there = np.concatenate([posting.signature[: posting.count] for posting, _ in found])
    rows = np.repeat([row for _, row in found], [posting.count for posting, _ in found])
    return image, signatures[rows], there


def _grown(array: np.ndarray, room: int) -> np.ndarray:
    grown = np.zeros((room, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
