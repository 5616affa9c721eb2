"""Two maps that share a place become one: `slam merge`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from slam.config import RunSettings
from slam.densification import densify
from slam.frame import Keyframe
from slam.graph import Graph
from slam.lie import se3_to_sim3, sim3_mul, sim3_to_se3
from slam.loops import Loop, agreeing, correction, regrown
from slam.relocalization import Relocaliser
from slam.saved_map import SavedMap, expect_same_kind, load_map, restore_into, save_map
from slam.system import Slam

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Merged:
    """What was made of two maps."""

    path: Path  # of the new map's file
    keyframes: tuple[int, int]  # from each
    pairs: int  # of keyframes, one of each map, that agreed on where the second lies
    edges: int  # between keyframes of one and of the other
    scale: float  # by which the second one's distances grew, before the adjustment

    def summary(self) -> str:
        """A few lines for a person."""
        first, second = self.keyframes
        return (
            f"{first} and {second} keyframes; {self.pairs} pairs that see the same agree, the "
            f"second map is {self.scale:.3f} times as large in the first; "
            f"{self.edges} edges between them\nwritten to {self.path}"
        )


def merge(first: Path, second: Path, out: Path) -> Merged:
    """Seeks the second map's keyframes in the first, moves it there, and adjusts everything.

    Settings and camera are the first one's, whose first keyframe stays where it is.

    Args: files, or folders of runs; `out` a file to write, or a folder for its `map.slam`.
    Raises FileNotFoundError, and ValueError where they do not agree or share no place.
    """
    maps = load_map(first), load_map(second)
    expect_same_kind(*maps)
    settings, camera = replace(maps[0].settings(), run=RunSettings()), maps[0].origin.camera
    with closing(Slam(camera.pinhole(), settings, calibrated=maps[0].origin.calibrated)) as slam:
        slam.enter(maps[0])
        count = len(slam.graph)
        restore_into(slam.graph, maps[1], slam.predictor)
        votes = _votes(slam, count)
        believed = agreeing(slam.graph.keyframes(), votes, settings.loops)
        if not believed:
            got = f"{len(votes)} that do not" if votes else "none that see the same"
            raise ValueError(
                f"{first} and {second}: wanted {settings.loops.votes} pairs of keyframes that see "
                f"the same place and agree on how the maps lie, got {got}; "
                "film the way from one to the other, and go on with one of them (--map)"
            )
        moved = correction(slam.graph.keyframes(), believed[0])
        move(slam.graph, range(count, len(slam.graph)), moved)
        slam.backend.places.take(slam.graph.keyframes())
        slam.backend.tie([regrown(v, float(moved[7])) for v in believed])
        slam.finish()
        path = out / "map.slam" if out.is_dir() else out
        save_map(path, _saved(slam, maps[0]))
        across = sum(min(e) < count <= max(e) for e in slam.graph.edges())
        sizes = count, len(slam.graph) - count
        return Merged(path, sizes, len(believed), across, float(moved[7]))


def _votes(slam: Slam, count: int) -> list[Loop]:
    """Pairs of keyframes that see the same: one of the first `count`, and one of the others."""
    places, keyframes = slam.backend.places, slam.graph.keyframes()
    relocaliser = Relocaliser(slam.predictor, slam.config, places)
    found: list[Loop] = []
    for newer in range(count, len(keyframes)):
        for older in relocaliser.similar(keyframes[:count], keyframes[newer].frame):
            T_on = slam.backend.verify(keyframes, older, newer)
            if T_on is not None:
                log.info("keyframe %d sees what %d of the first map saw", newer - count, older)
                found.append(Loop(older, newer, T_on))
    return found


def move(graph: Graph, numbers: Sequence[int], T: Tensor) -> None:
    """Moves keyframes, what they see and the frames that hang on them. Args: T: [8] Sim(3)."""
    keyframes: list[Keyframe] = graph.keyframes()
    T_WC = sim3_mul(T, se3_to_sim3(torch.stack([keyframes[n].T_WC for n in numbers])))
    poses = dict(zip(numbers, sim3_to_se3(T_WC), strict=True))
    graph.adopt(poses, {}, scales=dict.fromkeys(numbers, float(T[7])))


def _saved(slam: Slam, first: SavedMap) -> SavedMap:
    config, grid = slam.config, slam.predictor.grid
    dense = densify(slam.graph.snapshot(), grid, config, slam.graph.pages)
    return SavedMap.from_graph(slam.graph, first.origin, config, grid, dense)
