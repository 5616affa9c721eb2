"""The source that a run's settings name, opened in one place for all who want it."""

from __future__ import annotations

from slam.config import Config
from slam.sources.base import Source
from slam.sources.registry import open_source


def open_configured(config: Config) -> Source:
    """The source that a configuration names. Raises as open_source does."""
    chosen = config.source
    return open_source(
        chosen.path,
        format=chosen.format,
        calibration=chosen.calibration,
        fov=chosen.fov,
        start=chosen.start,
        end=chosen.end,
        stride=chosen.stride,
    )
