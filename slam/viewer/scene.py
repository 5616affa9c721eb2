"""What the viewer shows: a frozen Scene, made from a Snapshot of the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from slam.frame import (
    SOLVED,
    FrameRecord,
    Intrinsics,
    InverseDepth,
    Keyframe,
    Snapshot,
    source_of,
)
from slam.lie import se3_mul
from slam.mapcloud import confidence
from slam.predictors import Grid
from slam.viewer.points import VERTEX, growth, point_vertices, vertex_matrix

# Keyframes between two, from which on an edge of theirs is drawn as one that closes a loop: neither
# a graph nor a saved map keeps which edges were found as loops.
LOOP = 10
SAMPLE = 512  # points of a keyframe that tell how far away things are


@dataclass(frozen=True, slots=True)
class KeyframeView:
    """One keyframe as it is shown."""

    index: int  # of its image in the source
    T_WC: np.ndarray  # [7] float64
    vertices: np.ndarray  # [n] VERTEX; the same array as long as only pose or scale change
    scale: float  # by which depths have grown since the vertices were made
    inverse_depth: np.ndarray  # [rows, columns], 1/m up to scale
    confidence: np.ndarray  # [rows, columns], 1 / relative sigma, 0 = never measured
    rgb: np.ndarray | None  # [h, w, 3] uint8; None = its image is not at hand


@dataclass(frozen=True, slots=True)
class Scene:
    """A map at one moment."""

    keyframes: tuple[KeyframeView, ...]
    path: np.ndarray  # [N, 7] float64 T_WC of the posed frames, in the order of time
    solved: np.ndarray  # [N] bool, False = the pose is a guess: weak, lost
    edges: np.ndarray  # [E, 2] int64, pairs of keyframes, the earlier one first
    intrinsics: Intrinsics  # px, of the working images
    size: tuple[int, int]  # px, width and height of the working images
    stride: int  # px between the pixels that became vertices
    loose: np.ndarray  # [n] VERTEX in the world, of no keyframe
    source: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    # [N] which of the map's sources each posed frame is of; empty = there is one

    def matrix(self, keyframe: KeyframeView) -> np.ndarray:
        """[4, 4] from a keyframe's vertices to the world."""
        return vertex_matrix(keyframe.T_WC, self.intrinsics, keyframe.scale)

    @property
    def loops(self) -> np.ndarray:
        """[E] bool: which edges close a loop; the others are between neighbours."""
        return self.edges[:, 1] - self.edges[:, 0] >= LOOP

    @property
    def points(self) -> int:
        """Number of points in all."""
        return sum(len(k.vertices) for k in self.keyframes) + len(self.loose)

    @property
    def depth(self) -> float:
        """Median depth of what the cameras see, unit of the map; 1 where nothing is known."""
        depths = [k.scale * k.vertices["X"][:SAMPLE, 2] for k in self.keyframes]
        known = np.concatenate([*depths, np.empty(0)])
        return float(np.median(known)) if len(known) else 1.0

    def cloud(self, least: float, most: int | None = None) -> tuple[np.ndarray, ...]:
        """World points [n, 3] float32, colours [n, 3] uint8, confidences [n] float32.

        Args:
            least: confidence.
            most: about how many, a fair sample; None = all of them.
        """
        share = 1.0 if most is None else min(1.0, most / max(self.points, 1))
        parts = [(np.eye(4), self.loose)] + [(self.matrix(k), k.vertices) for k in self.keyframes]
        points, rows = [np.empty((0, 3))], [np.empty(0, VERTEX)]
        for M, vertices in parts:
            kept = vertices[: int(np.ceil(share * len(vertices)))]
            kept = kept[kept["alpha"] >= least]
            points.append(kept["X"] @ M[:3, :3].T + M[:3, 3])
            rows.append(kept)
        all_rows = np.concatenate(rows)
        cloud = np.concatenate(points).astype(np.float32)
        return cloud, all_rows["rgb"].copy(), all_rows["alpha"].astype(np.float32)


def edge_pairs(edges: Sequence[tuple[int, int]] | np.ndarray) -> np.ndarray:
    """[E, 2] int64 of directed edges: each pair once, the earlier keyframe first.

    They are in the order of the later keyframe: those of the first n keyframes come first.
    """
    pairs = np.array(edges, np.int64).reshape(-1, 2)
    return np.unique(np.sort(pairs, axis=1)[:, ::-1], axis=0)[:, ::-1]


def keyframe_view(
    grid: Grid, index: int, T_WC: np.ndarray, depth: InverseDepth, rgb: torch.Tensor
) -> KeyframeView:
    """A keyframe as it is shown.

    Args:
        index: of its image. T_WC: [7]. depth: [P] on the grid. rgb: [h, w, 3] uint8.
    """
    value, information = depth.value.numpy(), depth.information.numpy()
    shape = grid.rows, grid.columns
    return KeyframeView(
        index=index,
        T_WC=T_WC,
        vertices=point_vertices(grid.pixel.numpy(), value, information, grid.sample(rgb).numpy()),
        scale=1.0,
        inverse_depth=value.reshape(shape),
        confidence=confidence(depth).numpy().reshape(shape),
        rgb=rgb.numpy(),
    )


class SceneBuilder:
    """Makes Scenes of the snapshots of one run; what has not changed is kept."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._made: dict[int, tuple[KeyframeView, InverseDepth]] = {}  # with what it was made of

    def build(self, snapshot: Snapshot) -> Scene:
        """The scene of a snapshot."""
        made = {n: self._view(n, k) for n, k in enumerate(snapshot.keyframes)}
        self._made = made
        posed = [r for r in snapshot.records if 0 <= r.keyframe < len(snapshot.keyframes)]
        return Scene(
            keyframes=tuple(view for view, _ in made.values()),
            path=_path(snapshot.keyframes, posed),
            solved=np.array([r.state in SOLVED for r in posed], bool),
            edges=edge_pairs(snapshot.edges),
            intrinsics=snapshot.intrinsics,
            size=(self.grid.width, self.grid.height),
            stride=self.grid.stride,
            loose=np.empty(0, VERTEX),
            source=np.array([source_of(r.index) for r in posed], np.int64),
        )

    def _view(self, number: int, keyframe: Keyframe) -> tuple[KeyframeView, InverseDepth]:
        """The keyframe, and the depths that its vertices were made of."""
        pose, before = keyframe.T_WC.numpy(), self._made.get(number)
        if before is not None and before[0].index == keyframe.frame.index:
            scale = growth(before[1], keyframe.depth)
            if scale is not None:
                view = replace(before[0], T_WC=pose, scale=scale)
                return replace(view, inverse_depth=self._plane(keyframe.depth.value)), before[1]
        frame, depth = keyframe.frame, keyframe.depth
        return keyframe_view(self.grid, frame.index, pose, depth, frame.features.rgb), depth

    def _plane(self, values: torch.Tensor) -> np.ndarray:
        return values.numpy().reshape(self.grid.rows, self.grid.columns)


def _path(keyframes: Sequence[Keyframe], posed: Sequence[FrameRecord]) -> np.ndarray:
    """[N, 7] world poses of the frames."""
    if not posed:
        return np.empty((0, 7))
    T_WK = torch.stack([k.T_WC for k in keyframes])[[r.keyframe for r in posed]]
    return se3_mul(T_WK, torch.stack([r.T_kf for r in posed])).numpy()
