"""Small maps with a history, for the tests of replays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from saved_maps import around, made_map, sphere_depth

from slam.frame import PER_SOURCE, TrackState
from slam.saved_map import SavedMap, save_map

POSES = around(4)


def small_map() -> SavedMap:
    """Four keyframes round a sphere, twelve frames 1/30 s apart, the second without a pose."""
    saved = made_map(POSES, sphere_depth).saved
    states = [TrackState.TRACKED] * len(saved.records)
    states[4], states[7] = TrackState.WEAK, TrackState.RELOCALISED
    records = [replace(r, state=s) for r, s in zip(saved.records, states, strict=True)]
    return replace(saved, records=tuple(records))


def merged_map() -> SavedMap:
    """The same with its second half from another source, whose clock began anew."""

    def moved(index: int) -> int:
        return index if index < 6 else index - 6 + PER_SOURCE

    saved = small_map()
    records = [
        replace(r, index=moved(r.index), seconds=r.seconds if r.index < 6 else r.seconds - 90)
        for r in saved.records
    ]
    keyframes = [replace(k, index=moved(k.index)) for k in saved.keyframes]
    return replace(saved, records=tuple(records), keyframes=tuple(keyframes[::-1]))


def written(saved: SavedMap, folder: Path) -> Path:
    save_map(folder / "map.slam", saved)
    return folder / "map.slam"
