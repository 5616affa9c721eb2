"""All settings of the system, a section for each component; defaults and units live here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slam.data import data_path
from slam.settings import Section, read_settings, setting, to_yaml, with_overrides

__all__ = ["Config", "load_config", "output_folder", "to_yaml"]


@dataclass(frozen=True, slots=True)
class SourceConfig(Section):
    """Where the images come from and which of them are used."""

    path: str = setting("", help="folder, video file or list of images")
    format: str = setting("auto", help="tum, euroc, ...; auto: recognised from the files")
    calibration: str = setting("auto", help="auto, none, a published one by name, or a file")
    fov: float | None = setting(
        None, unit="deg", minimum=1, maximum=179, help="horizontal field of view, if uncalibrated"
    )
    start: int = setting(0, minimum=0, help="index of the first image used")
    end: int | None = setting(None, minimum=1, help="index of the first image left out again")
    stride: int = setting(1, minimum=1, help="use every so many images")


@dataclass(frozen=True, slots=True)
class FlowConfig(Section):
    """Dense flow, the measurement."""

    long_side: int = setting(320, unit="px", minimum=32, help="working size of the images")


@dataclass(frozen=True, slots=True)
class TrackingConfig(Section):
    """The pose of each frame."""

    huber: float = setting(2.5, minimum=0.1, help="threshold on the whitened residual")


@dataclass(frozen=True, slots=True)
class MappingConfig(Section):
    """The fusion of observations into a keyframe."""

    epipolar: float = setting(1.0, unit="px", minimum=0, help="largest distance to the line")


@dataclass(frozen=True, slots=True)
class KeyframesConfig(Section):
    """When a frame becomes a keyframe."""

    flow: float = setting(0.1, minimum=0, maximum=1, help="median flow, as part of the width")


@dataclass(frozen=True, slots=True)
class BundleAdjustmentConfig(Section):
    """The optimisation of poses and inverse depths over keyframes."""

    window: int = setting(8, minimum=2, help="keyframes that move in the local adjustment")


@dataclass(frozen=True, slots=True)
class RunConfig(Section):
    """How a run goes and where its results are written."""

    mode: Literal["offline", "realtime"] = setting(
        "offline", help="offline: every image, repeatable; realtime: the newest image wins"
    )
    out: str | None = setting(None, help="folder of the results; null: runs/NAME OF THE SOURCE")
    threads: int | None = setting(None, minimum=1, help="CPU threads; null: one for each core")
    seed: int = setting(0, minimum=0, help="of every random choice")


@dataclass(frozen=True, slots=True)
class Config(Section):
    """Every setting of a run."""

    source: SourceConfig = SourceConfig()
    flow: FlowConfig = FlowConfig()
    tracking: TrackingConfig = TrackingConfig()
    mapping: MappingConfig = MappingConfig()
    keyframes: KeyframesConfig = KeyframesConfig()
    bundle_adjustment: BundleAdjustmentConfig = BundleAdjustmentConfig()
    run: RunConfig = RunConfig()


def load_config(path_or_preset: str | Path | None, overrides: Iterable[str] = ()) -> Config:
    """The defaults, changed by a YAML file or a preset, then by `section.key=value` overrides.

    Args:
        path_or_preset: a file (it ends in .yaml or .yml), the name of a preset, or None.
    Raises ValueError for an unknown key or a wrong value, FileNotFoundError for a missing file.
    """
    config = Config()
    if path_or_preset is not None:
        path = Path(path_or_preset)
        is_file = path.suffix in (".yaml", ".yml")
        config = read_settings(config, path if is_file else data_path("configs", str(path)))
    return with_overrides(config, overrides)


def output_folder(config: Config) -> Path:
    """Folder of a run's results: `run.out`, else `runs/` and the name of the source."""
    if config.run.out is not None:
        return Path(config.run.out)
    return Path("runs") / (Path(config.source.path).resolve().stem or "root")
