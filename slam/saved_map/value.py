"""The saved map: a graph without its threads and features, in few bytes, and back to a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from slam.camera import Camera
from slam.config import Config, to_yaml
from slam.frame import (
    PER_SOURCE,
    Features,
    Frame,
    FrameRecord,
    Image,
    Intrinsics,
    InverseDepth,
    Keyframe,
    source_of,
)
from slam.graph import Edge, Graph
from slam.lie import se3_mul
from slam.predictors import Grid
from slam.saved_map.packing import (
    PackedDepth,
    PackedMatches,
    PackedPointmap,
    pack_image,
    unpack_image,
)
from slam.settings import parse_settings
from slam.sources import ImageSource
from slam.sources.ground_truth import mirrored
from slam.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a map comes from; one that was gone on with, where it did last."""

    name: str  # of the source, fit for a file's name
    path: str  # of the source when it was read
    format: str  # of the source: tum, euroc, ...
    mirrored: bool  # the source writes its poses left-handed; all in a map are right-handed
    calibrated: bool  # the camera was known; else its focal length is what the map found
    camera: Camera  # of the source's images as its files are; a guess where not calibrated

    @classmethod
    def of(cls, source: ImageSource) -> Origin:
        """Of an open source."""
        camera = source.raw_camera or source.camera
        return cls(
            source.name,
            str(source.path),
            source.format,
            source.mirrored,
            source.calibrated,
            camera,
        )


@dataclass(frozen=True, slots=True)
class SavedKeyframe:
    """A keyframe in few bytes; its image, depths and points are unpacked when asked for."""

    index: int  # as Image.index
    time: float  # as Image.time
    seconds: float  # as Image.seconds
    T_WC: Tensor  # [7] float64 SE(3): takes camera points to the world
    jpeg: np.ndarray  # [B] uint8, the working image
    depth: PackedDepth  # on the grid that tracking works on
    dense: PackedDepth | None  # on the finer grid of map.ply; None: the run made none
    pointmap: PackedPointmap | None  # of all pixels; None: the predictor has none

    @property
    def rgb(self) -> Tensor:
        """The working image [h, w, 3] uint8."""
        return unpack_image(self.jpeg)


@dataclass(frozen=True, slots=True)
class SavedMap:
    """Everything of a finished map. `save_map` and `load_map` keep it bit for bit."""

    origin: Origin
    predictor: str  # that it was made with: flow, mast3r or simulated
    config: str  # the run's config.yaml
    confidence: float  # 1 / relative sigma that a point of map.ply has at least
    grid: Grid  # that tracking works on
    dense_grid: Grid | None  # that the dense depths are on; None = there are none
    intrinsics: Intrinsics  # px at working size, as the map found them
    readout: float  # s from an image's first row to its last, as the map found it
    pinhole: bool  # whether the intrinsics are known well enough to compare pixels
    keyframes: tuple[SavedKeyframe, ...]  # in the order they were made
    records: tuple[FrameRecord, ...]  # of all frames, in the order of the source
    edges: Mapping[Edge, PackedMatches]  # (i, j): where keyframe i's grid pixels land in j

    @classmethod
    def from_graph(
        cls,
        graph: Graph,
        origin: Origin,
        config: Config,
        grid: Grid,
        dense: tuple[Grid, Sequence[InverseDepth]] | None = None,
    ) -> SavedMap:
        """What a graph holds now.

        Args:
            grid: the predictor's.
            dense: finer depths of every keyframe, as `densify` makes them of this graph.
        """
        keyframes, keep = graph.keyframes(), graph.pages.keep
        depths = [None] * len(keyframes) if dense is None else dense[1]
        records = graph.records()
        first = PER_SOURCE * min((source_of(r.index) for r in records), default=0)
        saved = [_packed(*pair, -first, keep) for pair in zip(keyframes, depths, strict=True)]
        edges = {e: keep(PackedMatches.of(grid.pixel, m)) for e, m in graph.edges().items()}
        return cls(
            origin,
            config.predictor,
            to_yaml(config),
            config.map.confidence,
            grid,
            None if dense is None else dense[0],
            graph.intrinsics,
            graph.readout,
            graph.pinhole,
            tuple(saved),
            tuple(keep(replace(r, index=r.index - first)) if first else r for r in records),
            dict(sorted(edges.items())),
        )

    @property
    def sources(self) -> int:
        """How many sources it was made from; `source_of` says which an index belongs to."""
        return 1 + max((source_of(r.index) for r in self.records), default=0)

    def settings(self) -> Config:
        """The run's settings. Raises ValueError for those of another version of the program."""
        return parse_settings(Config(), self.config, f"settings of the map of {self.origin.name}")

    def poses(self) -> Trajectory:
        """World poses of all frames that have one, right-handed."""
        posed = [r for r in self.records if r.keyframe >= 0]
        if not posed:
            return Trajectory(np.empty(0), np.empty((0, 7)))
        reference = torch.stack([self.keyframes[r.keyframe].T_WC for r in posed])
        T_WC = se3_mul(reference, torch.stack([r.T_kf for r in posed]))
        return Trajectory(np.array([r.time for r in posed], float), T_WC.numpy())

    def in_source_convention(self, trajectory: Trajectory) -> Trajectory:
        """A right-handed trajectory as the data set would write it, as in `trajectory.txt`."""
        return mirrored(trajectory) if self.origin.mirrored else trajectory


def _packed(
    keyframe: Keyframe, dense: InverseDepth | None, shift: int, keep: Callable[[Any], Any]
) -> SavedKeyframe:
    """Args: shift: added to its image's index. keep: of Pages."""
    frame, points = keyframe.frame, keyframe.pointmap
    saved = SavedKeyframe(
        frame.index + shift,
        frame.time,
        frame.seconds,
        keyframe.T_WC,
        pack_image(frame.features.rgb),
        keep(PackedDepth.of(keyframe.depth)),
        None if dense is None else keep(PackedDepth.of(dense)),
        None if points is None else keep(PackedPointmap.of(points)),
    )
    return keep(saved)


class Encoder(Protocol):
    """What restoring needs of a predictor."""

    @property
    def grid(self) -> Grid:
        """That its depths are on."""
        ...

    def encode(self, image: Image) -> Features:
        """Features of one image."""
        ...


def restore_graph(saved: SavedMap, predictor: Encoder) -> Graph:
    """The graph that a map was made of, to localise in or to go on with.

    Features are computed anew from the stored images. Depths, points and matches are as packed:
    within half a step of what they were.

    Raises ValueError as `expect_layout`.
    """
    expect_layout(saved, predictor)
    graph = Graph(saved.intrinsics)
    restore_into(graph, saved, predictor)
    return graph


def expect_layout(saved: SavedMap, predictor: Encoder) -> None:
    """Raises ValueError where a predictor works at another size or on another grid than a map."""
    wanted, got = _layout(saved.grid), _layout(predictor.grid)
    if wanted != got:
        raise ValueError(
            f"map of {saved.origin.name}: wanted a predictor that works on {wanted}, got one on "
            f"{got}; take the map's own settings ('slam map info' shows them)"
        )


def restore_into(graph: Graph, saved: SavedMap, predictor: Encoder, *, sources: int = 0) -> None:
    """Adds a map to a graph; see `restore_graph`. The camera of an empty one becomes the map's.

    Args: sources: number that the first of the map's sources gets.
    """
    keyframes, shift = len(graph), sources * PER_SOURCE
    if keyframes == 0:
        graph.adopt({}, {}, saved.intrinsics)
        graph.set_readout(saved.readout)
        graph.set_pinhole(saved.pinhole)
    for keyframe in saved.keyframes:
        graph.add_keyframe(_restored(keyframe, predictor, shift))
    matches = {e: m.unpack(saved.grid.pixel) for e, m in saved.edges.items()}
    graph.set_edges([], {(i + keyframes, j + keyframes): c for (i, j), c in matches.items()})
    for record in saved.records:
        number = record.keyframe + keyframes if record.keyframe >= 0 else -1
        graph.set_record(replace(record, index=record.index + shift, keyframe=number))


def _restored(saved: SavedKeyframe, predictor: Encoder, shift: int) -> Keyframe:
    image = Image(saved.index + shift, saved.time, saved.seconds, saved.rgb)
    frame = Frame(image.index, image.time, image.seconds, predictor.encode(image))
    points = None if saved.pointmap is None else saved.pointmap.unpack()
    return Keyframe(frame, saved.T_WC, saved.depth.unpack(), points)


def _layout(grid: Grid) -> str:
    return f"{grid.width}x{grid.height} px, depths {grid.stride} px apart"
