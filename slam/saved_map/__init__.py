"""A finished map as a value and as a file: all that is needed to go on with it, or to show it."""

from slam.saved_map.container import inspect
from slam.saved_map.format import VERSION, find_map, load_map, save_map
from slam.saved_map.value import Origin, SavedKeyframe, SavedMap, restore_graph

__all__ = [
    "VERSION",
    "Origin",
    "SavedKeyframe",
    "SavedMap",
    "find_map",
    "inspect",
    "load_map",
    "restore_graph",
    "save_map",
]
