"""A finished map as a value and as a file: all that is needed to go on with it, or to show it."""

from slam.saved_map.agreement import expect_fitting, expect_same_kind, settings_in_map
from slam.saved_map.container import inspect
from slam.saved_map.format import VERSION, find_map, load_map, save_map
from slam.saved_map.rows import Rows, write_arrays
from slam.saved_map.value import (
    Origin,
    SavedKeyframe,
    SavedMap,
    expect_layout,
    restore_graph,
    restore_into,
)

__all__ = [
    "VERSION",
    "Origin",
    "Rows",
    "SavedKeyframe",
    "SavedMap",
    "expect_fitting",
    "expect_layout",
    "expect_same_kind",
    "find_map",
    "inspect",
    "load_map",
    "restore_graph",
    "restore_into",
    "save_map",
    "settings_in_map",
    "write_arrays",
]
