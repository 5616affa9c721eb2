"""What changes a graph is told, and comes back from a journal as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from graph_state import differences

from slam.changes import Adopted, DepthChanged, EdgesKept, RecordSet
from slam.frame import (
    FrameRecord,
    FusedPointmap,
    InverseDepth,
    TrackState,
)
from slam.graph import Graph
from slam.initialization import identity
from slam.journal_records import Published, decode, encode


def test_every_way_to_change_a_graph_is_told() -> None:
    """A new method of Graph has to be put on one side, and told of if it changes anything."""
    telling = set[str]()
    reading = {
        *("pinhole", "readout", "intrinsics", "keyframe", "keyframes", "edges", "edges_at"),
        "submaps",
        *("record", "records", "T_WC", "twists", "twist", "snapshot"),
        *("frozen", "freeze"),  # what changes afterwards; a session with it has no journal
        *("observe", "copy"),
    }
    changing = {
        *("set_pinhole", "set_readout", "clear", "add_keyframe", "set_depth", "fused"),
        *("set_edges", "keep_edges", "adopt", "set_record"),
    }
    assert {n for n in vars(Graph) if not n.startswith("_")} == reading | changing
    source = Path(__import__("slam.graph").graph.__file__).read_text().split("    def ")
    telling = {body.split("(")[0] for body in source if "self._tell(" in body}
    assert telling == changing


def test_changes_that_this_run_did_not_make_come_back_too() -> None:
    record = FrameRecord(3, 0.1, 0.2, TrackState.LOST, -1, identity(), None)
    depth = InverseDepth(torch.rand(4), torch.rand(4))
    points = FusedPointmap(torch.rand(2, 2, 3), torch.rand(2, 2), 7)
    entries = [
        EdgesKept(((1, 0), (0, 2))),
        EdgesKept(()),
        RecordSet(record),
        DepthChanged(2, depth, points),
        DepthChanged(2, depth, None),
        Adopted({}, {}, None, None, {4: 0.5}),
        Adopted({1: identity()}, {1: depth}, (1.0, 2.0, 3.0, 4.0), 6, {}),
        Published(0.5, None, False),
    ]
    for entry in entries:
        kind, values = encode(entry)
        again = decode(kind, values, lambda image: pytest.fail("no keyframe is there"))
        assert differences(entry, again) == []
    with pytest.raises(ValueError, match="'dream'"):
        decode("dream", {}, lambda image: pytest.fail("no keyframe is there"))
