"""Time and memory of place recognition by the number of keyframes: python -m tests.retrieval_scale.

Synthetic: keyframes have 600 words, drawn unevenly as real ones are, and signatures by chance.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from slam.inverted_file import InvertedFile
from slam.retrieval import selectivity

WORDS, CORNERS, BITS, POOL = 16384, 600, 256, 1_000_000


def main(sizes: list[int]) -> None:
    """Args: sizes: numbers of keyframes to search among, ascending."""
    rng = np.random.default_rng(0)
    share = rng.permutation(1 / (np.arange(WORDS) + 300.0))
    pool = rng.choice(WORDS, POOL, p=share / share.sum())
    signature = rng.integers(0, 2**63, (POOL, BITS // 64), dtype=np.uint64)
    file = InvertedFile(BITS, selectivity(BITS, 3.0, 0.5))

    def image() -> tuple[np.ndarray, np.ndarray]:
        start = rng.integers(POOL - CORNERS)
        words = np.unique(pool[start : start + CORNERS])
        return words, signature[start : start + len(words)]

    done = 0
    for size in sizes:
        start = time.process_time()
        for _ in range(done, size):
            file.add(*image())
        added = (time.process_time() - start) / (size - done)
        start = time.process_time()
        for _ in range(5):
            file.scores(*image())
        searched = (time.process_time() - start) / 5
        done = size
        print(
            f"{size:7d} keyframes: search {1e3 * searched:6.1f} ms, add {1e3 * added:4.1f} ms, "
            f"{file.memory / size:.0f} bytes a keyframe"
        )


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [1_000, 10_000, 100_000])
