"""The distance between two points of the map."""

from __future__ import annotations

import numpy as np

from slam.viewer.points import line_vertices


class Ruler:
    """Holds the ends that were chosen so far, at most two."""

    def __init__(self) -> None:
        self.ends: list[np.ndarray] = []  # [3] world

    def add(self, point: np.ndarray) -> None:
        """Takes an end [3]; after two of them it starts anew."""
        self.ends = [point] if self.complete else [*self.ends, point]

    def clear(self) -> None:
        """Forgets the ends."""
        self.ends = []

    @property
    def complete(self) -> bool:
        """Whether there are two ends."""
        return len(self.ends) == 2

    @property
    def distance(self) -> float:
        """Between the ends, unit of the map; nan before there are two."""
        if not self.complete:
            return float("nan")
        return float(np.linalg.norm(self.ends[1] - self.ends[0]))

    def lines(self, size: float, color: tuple[int, int, int]) -> np.ndarray:
        """VERTEX of a cross at each end and the line between them. Args: size: of a cross."""
        lines = [(p - size * axis, p + size * axis) for p in self.ends for axis in np.eye(3)]
        if self.complete:
            lines.append((self.ends[0], self.ends[1]))
        return line_vertices(np.array(lines).reshape(-1, 2, 3), np.array(color), 255)
