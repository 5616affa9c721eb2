"""What a keyframe and the process hold in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from slam.bench.memory import keyframe_memory
from slam.frame import (
    Correspondence,
    Features,
    Frame,
    FrameRecord,
    FusedPointmap,
    InverseDepth,
    Keyframe,
)
from slam.frame import TrackState as State
from slam.graph import Graph
from slam.memory import peak_memory, resident_memory, trim

UNIT = torch.tensor([0.0, 0, 0, 0, 0, 0, 1], dtype=torch.float64)


def small_graph(count: int, *, together: bool) -> Graph:
    """Keyframes of 100 grid pixels. Args: together: their depths are rows of one tensor."""
    graph, stacked = Graph((1.0, 1.0, 0.0, 0.0)), torch.ones(count, 100)
    for n in range(count):
        features = Features(
            torch.zeros(40, 40, dtype=torch.uint8), torch.zeros(40, 40, 3, dtype=torch.uint8),
            torch.zeros(100),
        )  # fmt: skip
        value = stacked[0] if together else torch.ones(100)
        frame = Frame(n, float(n), float(n), features)
        graph.add_keyframe(Keyframe(frame, UNIT, InverseDepth(value, torch.ones(100))))
        measurement = torch.zeros(25, 3, dtype=torch.int16)
        graph.set_record(FrameRecord(n, n, n, State.TRACKED, n, UNIT, measurement))
    edges = {(n, n + 1): Correspondence(torch.zeros(100, 2), torch.ones(100)) for n in range(2)}
    graph.set_edges(list(edges), edges)
    return graph


def test_a_keyframes_memory_is_the_bytes_of_its_tensors() -> None:
    memory = keyframe_memory(small_graph(4, together=False))
    assert memory is not None
    assert memory.images == pytest.approx((1600 + 4800 + 400) / 1e6)
    assert memory.depth == pytest.approx(800 / 1e6)
    assert memory.edges == pytest.approx(2 * 1200 / 4 / 1e6)
    assert memory.frames == pytest.approx(150 / 1e6)
    assert memory.total == pytest.approx((6800 + 800 + 600 + 150) / 1e6)


def test_pointmaps_and_what_edges_hold_besides_count_too() -> None:
    graph = small_graph(4, together=False)
    points = FusedPointmap(torch.zeros(10, 20, 3), torch.zeros(10, 20), 1)
    graph.add_keyframe(replace(graph.keyframe(0), pointmap=points))
    plain, memory = keyframe_memory(graph), keyframe_memory(graph, [torch.zeros(1000)])
    assert memory is not None and plain is not None
    assert memory.points == pytest.approx(10 * 20 * 4 * 4 / 5 / 1e6)
    assert memory.edges - plain.edges == pytest.approx(4000 / 5 / 1e6)


def test_a_view_holds_all_of_its_storage_and_a_shared_one_counts_once() -> None:
    memory = keyframe_memory(small_graph(4, together=True))
    assert memory is not None
    assert memory.depth == pytest.approx((4 * 100 * 4 + 4 * 400) / 4 / 1e6)
    assert keyframe_memory(Graph((1.0, 1.0, 0.0, 0.0))) is None


def test_the_process_has_some_memory() -> None:
    trim()  # what earlier tests freed would be had again
    before = resident_memory()
    held = torch.ones(50_000_000 // 4)  # 50 MB
    assert 45 < resident_memory() - before < 60
    assert peak_memory() >= 0.9 * resident_memory() > len(held) * 4e-6
