"""What a saved map and a source must agree in, for the map to be entered with its images."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from slam.config import Config, LiveSettings, RunSettings, SourceSettings, load_config
from slam.frame import Intrinsics
from slam.saved_map.format import find_map, load_map
from slam.saved_map.value import SavedMap
from slam.settings import with_overrides
from slam.sources import ImageSource

log = logging.getLogger(__name__)

SAME_CAMERA = 0.01  # relative, of focal lengths; of the width, of the principal point


def settings_in_map(map: Path, chosen: str | None, overrides: Iterable[str]) -> Config:
    """Settings to go on with in a map: its own unless others are chosen, then overrides.

    Args:
        map: file, or folder of a run.
        chosen: a YAML file or the name of a preset; None = the map's settings.
    Raises as load_map and load_config do.
    """
    given = [*overrides, f"run.map={find_map(map)}"]
    if chosen is not None:
        return load_config(chosen, given)
    kept = load_map(map).settings()
    own = replace(kept, source=SourceSettings(), live=LiveSettings(), run=RunSettings())
    return with_overrides(own, given)


def expect_fitting(saved: SavedMap, source: ImageSource) -> None:
    """Raises ValueError where a source's images cannot be sought in a map.

    Its camera is not the map's, as far as that is known, or a simulation knows only the map's.
    """
    expect_simulated(saved, str(source.path))
    _expect_same_camera(saved, source)


def expect_simulated(saved: SavedMap, path: str) -> None:
    """Raises ValueError where a map is of a simulation in another world than a recording's."""
    if saved.predictor == "simulated" and Path(saved.origin.path) != Path(path):
        raise ValueError(
            f"{path}: wanted the recording that the simulation of the map of {saved.origin.name} "
            f"is made from ({saved.origin.path}), got another; give that one, or a map by flow"
        )


def _expect_same_camera(saved: SavedMap, source: ImageSource) -> None:
    origin, grid = saved.origin, saved.grid
    if not source.calibrated:
        if origin.camera.distortion:
            raise ValueError(
                f"{source.path}: the camera of the map of {origin.name} is distorted, so a "
                "calibration of this one is wanted, got none; name one (--calib)"
            )
        log.warning("%s: not calibrated; taken for the camera of the map", source.path)
        return
    if origin.calibrated:
        got = source.camera.resized(grid.width, grid.height).intrinsics
        _expect_same(saved, str(source.path), got)


def expect_same_kind(first: SavedMap, second: SavedMap) -> None:
    """Raises ValueError where two maps cannot become one: other cameras, sizes or predictors."""
    kinds = [(m.predictor, m.grid.width, m.grid.height, m.grid.stride) for m in (first, second)]
    if kinds[0] != kinds[1]:
        words = ["{} on {}x{} px, every {}th".format(*kind) for kind in kinds]
        raise ValueError(
            f"map of {second.origin.name}: wanted one like that of {first.origin.name} "
            f"({words[0]}), got {words[1]}; make one of them anew with the other's settings"
        )
    expect_simulated(first, second.origin.path)
    _expect_same(first, f"map of {second.origin.name}", second.intrinsics)


def _expect_same(saved: SavedMap, name: str, got: Intrinsics) -> None:
    wanted = saved.intrinsics
    sizes = wanted[0], wanted[1], saved.grid.width, saved.grid.width
    off = max(abs(w - g) / size for w, g, size in zip(wanted, got, sizes, strict=True))
    if off > SAME_CAMERA:
        words = [", ".join(f"{v:.1f}" for v in values) for values in (wanted, got)]
        raise ValueError(
            f"{name}: wanted the camera of the map of {saved.origin.name} (fx, fy, cx, cy "
            f"{words[0]} px), got another ({words[1]} px); give its calibration (--calib), or make "
            "a map with this one"
        )
