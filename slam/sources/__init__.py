"""Where frames come from: `open_source` finds the format of a path by its content."""

from slam.sources.base import DepthMaps, ImageSource, Recording, Source
from slam.sources.registry import FORMATS, open_source

__all__ = ["FORMATS", "DepthMaps", "ImageSource", "Recording", "Source", "open_source"]
