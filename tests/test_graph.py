"""The map: frames follow their keyframes, snapshots do not change."""

from __future__ import annotations

import torch

from slam.frame import (
    Correspondence,
    Features,
    Frame,
    FrameRecord,
    InverseDepth,
    Keyframe,
    TrackState,
)
from slam.graph import Graph, scale_change

IDENTITY = torch.tensor([0.0, 0, 0, 0, 0, 0, 1], dtype=torch.float64)


def keyframe(index: int, depth: float = 1.0) -> Keyframe:
    features = Features(torch.zeros(8, 8), torch.zeros(8, 8, 3), torch.ones(4))
    frame = Frame(index, float(index), float(index), features)
    return Keyframe(frame, IDENTITY, InverseDepth(torch.full((4,), depth), torch.ones(4)))


def record(index: int, number: int, x: float) -> FrameRecord:
    T_kf = IDENTITY.clone()
    T_kf[0] = x
    return FrameRecord(index, float(index), float(index), TrackState.TRACKED, number, T_kf, None)


def test_frames_move_with_their_keyframe() -> None:
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    graph.add_keyframe(keyframe(0))
    graph.set_record(record(1, 0, 0.5))
    moved = IDENTITY.clone()
    moved[1] = 3.0
    graph.adopt({0: moved}, {})
    assert graph.T_WC(graph.record(1))[:3].tolist() == [0.5, 3.0, 0.0]


def test_frames_are_rescaled_with_their_keyframes_depths() -> None:
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    graph.add_keyframe(keyframe(0))
    graph.set_record(record(1, 0, 0.5))
    graph.adopt({}, {0: keyframe(0, depth=0.25).depth})
    assert float(graph.record(1).T_kf[0]) == 2.0


def test_scale_change_is_one_where_nothing_was_measured() -> None:
    unknown = InverseDepth(torch.ones(4), torch.zeros(4))
    assert scale_change(unknown, keyframe(0, 3.0).depth) == 1.0


def test_records_come_in_the_order_of_the_source() -> None:
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    graph.add_keyframe(keyframe(0))
    for index in (5, 2, 9):
        graph.set_record(record(index, 0, 0.0))
    assert [r.index for r in graph.records()] == [2, 5, 9]


def test_a_replaced_record_hangs_on_one_keyframe_only() -> None:
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    graph.add_keyframe(keyframe(0))
    graph.add_keyframe(keyframe(3))
    graph.set_record(record(1, 0, 1.0))
    graph.set_record(record(1, 1, 1.0))
    graph.adopt({}, {0: keyframe(0, depth=0.25).depth})
    assert float(graph.record(1).T_kf[0]) == 1.0


def test_snapshot_does_not_change_afterwards() -> None:
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    graph.add_keyframe(keyframe(0))
    before = graph.snapshot()
    graph.add_keyframe(keyframe(1))
    graph.set_depth(0, keyframe(0, 9.0).depth)
    graph.set_edges([(0, 1)], {(0, 1): Correspondence(torch.zeros(4, 2), torch.ones(4))})
    assert len(before.keyframes) == 1 and before.edges == ()
    assert float(before.keyframes[0].depth.value[0]) == 1.0


def test_clearing_forgets_keyframes_but_not_frames() -> None:
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    graph.add_keyframe(keyframe(0))
    graph.set_record(record(1, 0, 0.5))
    graph.clear((2.0, 2.0, 0.0, 0.0))
    assert graph.intrinsics[0] == 2.0
    assert len(graph) == 0
    assert graph.record(1).keyframe == -1


def test_fused_depths_give_way_to_adopted_ones() -> None:
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    graph.add_keyframe(keyframe(0))
    before = graph.keyframe(0).depth
    assert graph.fused(0, before, keyframe(0, 0.9).depth)[1] == 1.0
    graph.adopt({}, {0: keyframe(0, 0.5).depth})
    now, scale = graph.fused(0, before, keyframe(0, 1.1).depth)
    assert float(now.depth.value[0]) == 0.5 and scale == 2.0


def test_measuring_a_pair_again_drops_what_it_said_before() -> None:
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    for index in range(2):
        graph.add_keyframe(keyframe(index))
    measured = Correspondence(torch.zeros(4, 2), torch.ones(4))
    graph.set_edges([(0, 1)], {(0, 1): measured, (1, 0): measured})
    graph.set_edges([(0, 1)], {(1, 0): measured})
    assert set(graph.edges()) == {(1, 0)}
