"""Where frames come from: `open_source` finds the format of a path by its content."""

from slam.sources.base import DepthMaps, Recording, Source
from slam.sources.registry import FORMATS, open_source

__all__ = ["FORMATS", "DepthMaps", "Recording", "Source", "open_source"]
