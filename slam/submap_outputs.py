"""What a run leaves behind of submaps that nothing ties to the map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from slam.config import Config
from slam.densification import densify
from slam.frame import FrameRecord
from slam.graph import Graph
from slam.map_parts import MapPart
from slam.output_files import Files
from slam.saved_map import Origin, SavedMap, save_map
from slam.sources import ImageSource
from slam.system import Slam
from slam.trajectory import Trajectory, write_tum


def submap_words(submaps: Sequence[dict[str, Any]]) -> str:
    """What became of several submaps, and what to do, in one line."""
    posed, names = [s["frames"] for s in submaps], [s["map"] for s in submaps]
    return (
        f"the camera was lost, and {len(submaps)} submaps share no place: {names[0]} has "
        f"{posed[0]} of {sum(posed)} posed frames, {', '.join(names[1:])} the others; film the "
        "way from one to another, go on with one of them (--map), and slam merge"
    )


def save_submaps(
    files: Files, slam: Slam, source: ImageSource, parts: Sequence[MapPart], config: Config
) -> list[dict[str, Any]]:
    """Path and map of every submap but the first; returns what the report says of all."""
    said = [_report(part, "") for part in parts[:1]]
    for number, part in enumerate(parts[1:], start=2):
        suffix = f"-{number}"
        said.append(_report(part, suffix))
        poses = source.to_source_convention(path_of(part.graph, part.posed))
        with files.writing(f"trajectory{suffix}.txt") as path:
            write_tum(path, poses)
        dense = densify(part.graph.snapshot(), slam.predictor.grid, config, part.graph.pages)
        grid, origin = slam.predictor.grid, Origin.of(source)
        with files.writing(f"map{suffix}.slam") as path:
            save_map(path, SavedMap.from_graph(part.graph, origin, config, grid, dense))
    names = [one[kind] for one in said for kind in ("trajectory", "map")]
    files.remove_earlier(names, config.run.map)
    return said


def _report(part: MapPart, suffix: str) -> dict[str, Any]:
    posed = part.posed
    return {
        "keyframes": len(part.graph),
        "frames": len(posed),
        "from": posed[0].time if posed else None,
        "to": posed[-1].time if posed else None,
        "trajectory": f"trajectory{suffix}.txt",
        "map": f"map{suffix}.slam",
    }


def path_of(graph: Graph, records: Sequence[FrameRecord]) -> Trajectory:
    """Poses of frames that have one."""
    return trajectory_of([(r.time, graph.T_WC(r).numpy()) for r in records])


def trajectory_of(rows: Sequence[tuple[float, np.ndarray]]) -> Trajectory:
    """Of times and poses [7]; it may be empty."""
    if not rows:
        return Trajectory(np.empty(0), np.empty((0, 7)))
    return Trajectory(np.array([t for t, _ in rows], float), np.stack([p for _, p in rows]))
