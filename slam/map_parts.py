"""The submaps that a run ends with, each as a graph of its own, the one to keep first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from slam.frame import SOLVED, FrameRecord, source_of
from slam.graph import Graph


@dataclass(frozen=True, slots=True)
class MapPart:
    """One submap."""

    name: int  # as in the run's graph
    graph: Graph  # its keyframes, their edges and frames; the run's own where it is the only one

    @property
    def posed(self) -> list[FrameRecord]:
        """The run's own frames whose pose was solved in it."""
        records = self.graph.records()
        own = [r for r in records if r.state in SOLVED and source_of(r.index) == 0]
        return [r for r in own if r.keyframe >= 0]


def parts_of(graph: Graph, first: int | None = None) -> list[MapPart]:
    """The submaps of a graph, those with most posed frames first, of equals the older.

    Args: first: name of the one that comes first whatever it has; None = none does.
    """
    submaps = graph.submaps
    if not submaps.several:
        return [MapPart(0, graph)]
    records = [r for r in graph.records() if r.keyframe >= 0 and r.state in SOLVED]
    count = Counter(submaps.of(r.keyframe) for r in records)
    order = sorted(submaps.every, key=lambda name: (name != first, -count[name], name))
    return [MapPart(name, _alone(graph, name, name == order[0])) for name in order]


def _alone(graph: Graph, name: int, rest: bool) -> Graph:
    """A submap as a graph.

    Args: rest: with the frames that were lost, wherever that was; else only those posed in it.
    """
    keyframes, submaps = graph.keyframes(), graph.submaps
    place = {k: n for n, k in enumerate(submaps.members(name, len(keyframes)))}
    alone = Graph(graph.intrinsics, graph.pages)
    alone.set_readout(graph.readout)
    alone.set_pinhole(graph.pinhole)
    for number in place:
        alone.add_keyframe(keyframes[number])
    edges = {e: c for e, c in graph.edges().items() if place.keys() >= set(e)}
    alone.set_edges([], {(place[i], place[j]): c for (i, j), c in edges.items()})
    for record in graph.records():
        if record.keyframe in place and (rest or record.state in SOLVED):
            alone.set_record(replace(record, keyframe=place[record.keyframe]))
        elif record.keyframe < 0 and rest:
            alone.set_record(record)
    return alone
