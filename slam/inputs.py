"""What a run is fed from: the recording or the camera that its configuration names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from slam.config import Config, LiveSettings
from slam.session import Found
from slam.sources import Source
from slam.sources.camera import CameraSource
from slam.sources.configured import open_configured
from slam.sources.recorded import NAME as RECORDING


def as_it_goes(config: Config) -> Config:
    """The configuration as a live run needs it. Raises ValueError for a predictor that cannot."""
    if not config.live.device:
        return config
    if config.predictor == "simulated":
        raise ValueError(
            "--predictor simulated: it wants true depth and poses, which no camera gives; "
            "take flow or mast3r"
        )
    return replace(config, run=replace(config.run, realtime=True))


def open_source_or_camera(config: Config) -> Source | CameraSource:
    """The camera or the recording that a configuration names."""
    if not config.live.device:
        return open_configured(config)
    return CameraSource(config.live, config.source.calibration, config.source.fov)


def to_repeat(config: Config, source: Source | CameraSource, folder: Path) -> Config:
    """The configuration as it is kept: a live run's images are to be found in its recording.

    Args: folder: of the results. Raises ValueError where the recording is what is played.
    """
    if isinstance(source, Source):
        return config
    recording = (folder / RECORDING).resolve()
    if config.live.record and Path(source.device.name).expanduser().resolve() == recording:
        raise ValueError(
            f"{recording}: wanted another folder (--out) for the new recording than that of the "
            "one that is played, or --no-record"
        )
    path = str(recording) if config.live.record else source.device.name
    return replace(
        config,
        source=replace(config.source, path=path),
        live=replace(config.live, device=source.device.name),
    )


def from_recording(found: Found) -> Config:
    """The configuration that an unfinished run goes on with: a live one on what it recorded.

    Raises ValueError where it recorded nothing.
    """
    folder, config = found.path.parent, found.config
    config = replace(config, run=replace(config.run, out=str(folder)))
    if not config.live.device:
        return config
    if not (folder / RECORDING).is_file():
        raise ValueError(
            f"{folder}: wanted the recording of this live run to go on with, got no {RECORDING} in "
            "it; film it again, into another folder: slam live --out"
        )
    return replace(
        config,
        source=replace(config.source, path=str(folder / RECORDING)),
        live=LiveSettings(),
        run=replace(config.run, realtime=False),
    )
