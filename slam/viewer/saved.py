"""Scene and recording of a saved map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from slam.frame import PER_SOURCE, SOLVED
from slam.predictors import Grid
from slam.saved_map import SavedKeyframe, SavedMap
from slam.sources import Source
from slam.sources.configured import open_configured
from slam.viewer.points import VERTEX
from slam.viewer.recording import Recording, places_of, playing_seconds
from slam.viewer.scene import KeyframeView, Scene, edge_pairs, keyframe_view


def in_order(saved: SavedMap) -> SavedMap:
    """The map with frames and keyframes in the order of their images, as they are replayed."""
    order = sorted(range(len(saved.keyframes)), key=lambda k: saved.keyframes[k].index)
    number = {k: place for place, k in enumerate(order)} | {-1: -1}
    records = sorted(saved.records, key=lambda record: record.index)
    return replace(
        saved,
        keyframes=tuple(saved.keyframes[k] for k in order),
        records=tuple(replace(r, keyframe=number[r.keyframe]) for r in records),
        edges={(number[i], number[j]): matches for (i, j), matches in saved.edges.items()},
    )


def scene_of_map(saved: SavedMap, recording: Recording) -> Scene:
    """What a map shows. Args: saved: as `in_order` gives it. recording: its own."""
    grid, posed = saved.dense_grid or saved.grid, recording.posed
    states = [record.state for record in saved.records]
    return Scene(
        keyframes=tuple(_view(grid, keyframe) for keyframe in saved.keyframes),
        path=recording.T_WC[posed],
        solved=np.array([state in SOLVED for state in states], bool)[posed],
        edges=edge_pairs(list(saved.edges)),
        intrinsics=saved.intrinsics,
        size=(grid.width, grid.height),
        stride=grid.stride,
        loose=np.empty(0, VERTEX),
        source=recording.index[posed] // PER_SOURCE,
    )


def recording_of_map(saved: SavedMap) -> Recording:
    """What happened when. Args: saved: as `in_order` gives it."""
    records = saved.records
    index = np.array([r.index for r in records], np.int64)
    T_WC = np.full((len(records), 7), np.nan)
    T_WC[[r.keyframe >= 0 for r in records]] = saved.poses().poses
    return Recording(
        index=index,
        time=np.array([r.time for r in records], float),
        seconds=playing_seconds(index, np.array([r.seconds for r in records], float)),
        states=tuple(r.state for r in records),
        T_WC=T_WC,
        keyframe=np.array([r.keyframe for r in records], np.int64),
        made=places_of(np.array([k.index for k in saved.keyframes], np.int64), index),
    )


def open_source_of(saved: SavedMap) -> Source:
    """The source that a map comes from, or the one it was gone on with last.

    Raises FileNotFoundError or ValueError where it cannot be opened any more.
    """
    settings = saved.settings()
    chosen = replace(settings.source, path=saved.origin.path)
    return open_configured(replace(settings, source=chosen))


def _view(grid: Grid, keyframe: SavedKeyframe) -> KeyframeView:
    depth = (keyframe.dense or keyframe.depth).unpack()
    return keyframe_view(grid, keyframe.index, keyframe.T_WC.numpy(), depth, keyframe.rgb)
