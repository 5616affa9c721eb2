"""The map: frames follow their keyframes, snapshots do not change."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_map import IDENTITY, keyframe, record
from torch import Tensor

from slam.frame import Correspondence, InverseDepth, TrackState
from slam.graph import FAR, Graph
from slam.rescaling import rescaled, scale_change


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


def test_what_was_made_since_an_adjustment_follows_the_newest_it_knew() -> None:
    """Pose, depths and frames, as seen from that keyframe: turned, moved and twice as large."""
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    for index, x in ((0, 0.0), (10, 1.0), (20, 2.0), (30, 2.0)):
        T_WC = posed(x, 0, 0)
        graph.add_keyframe(replace(keyframe(index, depth=0.5), T_WC=T_WC))
    graph.set_record(record(5, 0, 0.5))
    graph.set_record(record(25, 2, 0.5))
    quarter = posed(4.0, 5.0, 0.0, about_z=torch.pi / 2)
    graph.adopt({1: quarter}, {1: keyframe(10, depth=0.25).depth}, newest=1)
    first, newest, *since = graph.keyframes()
    assert torch.equal(first.T_WC, posed(0, 0, 0)) and float(first.depth.value[0]) == 0.5
    assert torch.equal(newest.T_WC, quarter)
    for follower in since:
        torch.testing.assert_close(follower.T_WC, posed(4.0, 7.0, 0.0, about_z=torch.pi / 2))
        assert follower.depth.value.tolist() == [0.25] * 4
        assert follower.depth.information.tolist() == [4.0] * 4
    moved = graph.T_WC(graph.record(25))[:3]
    torch.testing.assert_close(moved, torch.tensor([4.0, 8.0, 0.0], dtype=torch.float64))
    assert float(graph.record(5).T_kf[0]) == 0.5


def test_without_newer_keyframes_nothing_follows() -> None:
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    for index in range(2):
        graph.add_keyframe(keyframe(index))
    graph.adopt({0: posed(1.0, 0.0, 0.0)}, {})  # newest not given: all were known
    assert torch.equal(graph.keyframe(1).T_WC, IDENTITY)
    graph.adopt({0: posed(2.0, 0.0, 0.0)}, {}, newest=1)
    assert torch.equal(graph.keyframe(1).T_WC, IDENTITY)


def posed(x: float, y: float, z: float, about_z: float = 0.0) -> Tensor:
    """A pose [7] at a place, turned."""
    turn = [0.0, 0.0, math.sin(about_z / 2), math.cos(about_z / 2)]
    return torch.tensor([x, y, z, *turn], dtype=torch.float64)


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


def moving(times: list[float], places: list[float], **states: TrackState) -> Graph:
    """A map with one keyframe and frames at places (m) along x, by time (s)."""
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    graph.add_keyframe(keyframe(0))
    for index, (seconds, x) in enumerate(zip(times, places, strict=True)):
        state = states.get(f"frame_{index}", TrackState.TRACKED)
        graph.set_record(replace(record(index, 0, x), seconds=seconds, state=state))
    return graph


def speed(graph: Graph, index: int) -> float:
    """Of the camera along x, m/s: points move against it."""
    twist = graph.twists([index])[0]
    assert not twist[1:].any()
    return -float(twist[0])


def test_twist_is_the_difference_of_the_images_before_and_after() -> None:
    graph = moving([0.0, 0.1, 0.3, 0.4], [0.0, 0.1, 0.9, 1.5])
    assert speed(graph, 1) == pytest.approx(0.9 / 0.3)
    assert speed(graph, 2) == pytest.approx((1.5 - 0.1) / 0.3)


def test_twist_at_the_ends_is_one_sided() -> None:
    graph = moving([0.0, 0.1, 0.3, 0.4], [0.0, 0.1, 0.9, 1.5])
    assert speed(graph, 0) == pytest.approx(1.0)
    assert speed(graph, 3) == pytest.approx(6.0)
    assert not moving([0.0], [3.0]).twists([0])[0].any()


def test_twist_counts_solved_poses_only() -> None:
    times, places = [0.0, 0.1, 0.2, 0.3], [0.0, 0.1, 0.3, 0.7]
    one_sided = moving(times, places, frame_0=TrackState.LOST)
    assert speed(one_sided, 1) == pytest.approx(2.0)
    itself = moving(times, places, frame_1=TrackState.WEAK)
    assert speed(itself, 1) == pytest.approx(1.5)
    alone = moving(times, places, frame_0=TrackState.LOST, frame_2=TrackState.PENDING)
    assert not alone.twists([1])[0].any()
    back = moving(times, places, frame_0=TrackState.RELOCALISED)
    assert speed(back, 1) == pytest.approx(1.5)
    unhung = moving(times, places)
    unhung.set_record(replace(unhung.record(0), keyframe=-1))
    assert speed(unhung, 1) == pytest.approx(2.0)


def test_twist_across_a_gap_is_none() -> None:
    graph = moving([0.0, 0.9 * FAR, 1.1 * FAR, 2.2 * FAR], [0.0, 0.9, 1.1, 9.0])
    assert not graph.twists([1])[0].any() and not graph.twists([3])[0].any()
    assert speed(graph, 0) == pytest.approx(1 / FAR)
    assert not moving([0.2, 0.2], [0.0, 1.0]).twists([0])[0].any()  # one time stamp for two images


def test_twist_follows_the_keyframes() -> None:
    """A frame before and one after hang on different keyframes, of which one moves."""
    graph = moving([0.0, 0.1, 0.2], [0.0, 0.1, 0.2])
    graph.add_keyframe(keyframe(2))
    graph.set_record(replace(graph.record(2), keyframe=1, T_kf=IDENTITY))
    moved = IDENTITY.clone()
    moved[0] = 0.8
    graph.adopt({1: moved}, {})
    assert speed(graph, 1) == pytest.approx(4.0)


def linked(*edges: tuple[int, int]) -> Graph:
    """A map of four keyframes with edges."""
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    for index in range(4):
        graph.add_keyframe(keyframe(index))
    graph.set_edges(edges, {e: marked(*e) for e in edges})
    return graph


def marked(i: int, j: int) -> Correspondence:
    """An edge's measurement that tells which one it is."""
    return Correspondence(torch.full((4, 2), 10.0 * i + j), torch.ones(4))


EDGES = ((0, 1), (1, 0), (1, 2), (2, 3), (3, 0))


def test_edges_at_keyframes_begin_or_end_there() -> None:
    graph = linked(*EDGES)
    assert list(graph.edges_at([1])) == [(0, 1), (1, 0), (1, 2)]
    assert list(graph.edges_at([3, 0])) == [(0, 1), (1, 0), (2, 3), (3, 0)]
    assert graph.edges_at([7]) == graph.edges_at([]) == {}
    assert all(float(c.target[0, 0]) == 10 * i + j for (i, j), c in graph.edges_at([2]).items())


def test_edges_at_follow_what_is_measured_again() -> None:
    graph = linked(*EDGES)
    graph.set_edges([(0, 1), (3, 2)], {(1, 0): marked(4, 2)})
    assert list(graph.edges_at([0, 3])) == [(1, 0), (3, 0)]
    assert float(graph.edges_at([1])[1, 0].target[0, 0]) == 42.0
    assert list(graph.edges_at([2])) == [(1, 2)]


def test_only_the_edges_kept_are_left() -> None:
    graph = linked(*EDGES)
    graph.keep_edges([(1, 0), (2, 3), (0, 3)])  # of which the last was never there
    assert set(graph.edges()) == {(1, 0), (2, 3)}
    assert list(graph.edges_at(range(4))) == [(1, 0), (2, 3)]
    graph.set_edges([(0, 1)], {(0, 1): marked(0, 1)})
    assert list(graph.edges_at([0])) == [(0, 1)]


def test_a_cleared_map_has_no_edges() -> None:
    graph = linked(*EDGES)
    graph.clear((1.0, 1.0, 0.0, 0.0))
    assert graph.edges() == graph.edges_at(range(4)) == {}
    for index in range(2):
        graph.add_keyframe(keyframe(index))
    graph.set_edges([(0, 1)], {(1, 0): marked(1, 0)})
    assert list(graph.edges_at([1])) == [(1, 0)]


def test_points_at_infinity_do_not_tell_the_scale() -> None:
    depth, information = torch.tensor([0.0, 0.0, 0.5]), torch.ones(3)
    old, new = InverseDepth(depth, information), InverseDepth(depth / 2, information)
    assert scale_change(old, new) == pytest.approx(2.0)
    T_kf = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    assert rescaled(T_kf, old, new).tolist() == pytest.approx([2, 4, 6, 0, 0, 0, 1])


def test_a_copy_stays_as_it_is_while_the_graph_goes_on() -> None:
    graph, told = Graph((1.0, 1.0, 0.0, 0.0)), []
    for number in range(2):
        graph.add_keyframe(keyframe(number), submap=number)
    graph.set_record(record(5, 1, 0.5))
    flow = Correspondence(torch.zeros(4, 2), torch.ones(4))
    graph.set_edges([(0, 1)], {(0, 1): flow})
    graph.set_readout(0.02)
    graph.observe(told.append)
    copy = graph.copy()
    pose = graph.T_WC(graph.record(5))
    graph.adopt({1: posed(3.0, 0, 0)}, {}, joined={1: 0})
    graph.set_edges([(0, 1)], {})
    graph.set_record(record(6, 0, 0.5))
    changes = len(told)
    assert (len(copy), copy.readout, copy.submaps.several) == (2, 0.02, True)
    assert copy.edges() == copy.edges_at([1]) == {(0, 1): flow}
    assert [r.index for r in copy.records()] == [5]
    assert torch.equal(copy.T_WC(copy.record(5)), pose)
    copy.clear((2.0, 2.0, 0.0, 0.0))
    assert len(graph) == 2 and len(told) == changes
