"""What goes into an adjustment of the map, and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from slam.frame import Correspondence, Intrinsics, InverseDepth
from slam.graph import Edge, Graph
from slam.optimization import BundleAdjustment
from slam.paging import Pages


@dataclass(frozen=True, slots=True)
class Adjusted:
    """What the graph is to take over."""

    poses: dict[int, Tensor]  # keyframe number to T_WC [7]
    depths: dict[int, InverseDepth]
    intrinsics: Intrinsics
    newest: int  # the last keyframe known when this was solved
    scales: dict[int, float] = field(default_factory=dict)  # by which distances grow, before that
    joined: dict[int, int] = field(default_factory=dict)  # submap to the one it became part of


@dataclass(frozen=True, slots=True)
class Part:
    """What a bundle adjustment works on."""

    numbers: list[int]  # keyframes that take part
    edges: dict[Edge, Correspondence]  # between them, by keyframe numbers
    fixed: list[bool]  # of each keyframe: its pose stays
    held: list[bool]  # of each keyframe: its depth stays


def last_part(graph: Graph, members: Sequence[int], window: int, anchors: int) -> Part | None:
    """A submap's last keyframes move; those linked to them take part as they are.

    Args:
        members: the submap's keyframes, in order.
        window: how many are adjusted, at most.
        anchors: of them whose poses stay; 1 where the window holds all.
    Returns None where there are too few, or the last ones see what no other does.
    """
    if len(members) < 3:
        return None
    last, frozen, known = members[-window:], graph.frozen, set(members)
    anchors = 1 if len(last) == len(members) else anchors
    moving = {k for k in last if k >= frozen}
    free = {k for k in last[anchors:] if k >= frozen}
    edges = {e: c for e, c in graph.edges_at(sorted(moving)).items() if known >= set(e)}
    if not edges:
        return None
    linked = sorted({k for e in edges for k in e} | moving)
    return Part(linked, edges, [k not in free for k in linked], [k not in moving for k in linked])


def near_part(graph: Graph, members: Sequence[int], ends: Sequence[int], count: int) -> Part:
    """A submap's keyframes that the fewest edges lead to from some move; the others stay.

    Args:
        members: the submap's keyframes, in order.
        ends: those that it begins at.
        count: how many move, at most.
    """
    known, moving, front = set(members), dict.fromkeys(ends), [*ends]
    while front and len(moving) < count:
        linked = {k for e in graph.edges_at(front) for k in e if k in known}
        front = sorted(linked - moving.keys())
        moving |= dict.fromkeys(front)
    free = {k for k in [*moving][:count] if k >= graph.frozen and k != members[0]}
    edges = {e: c for e, c in graph.edges_at(sorted(free)).items() if known >= set(e)}
    linked = sorted({k for e in edges for k in e} | free)
    held = [k not in free for k in linked]
    fixed = held if any(held) else [k == linked[0] for k in linked]
    return Part(linked, edges, fixed, held)


def closed_part(graph: Graph, numbers: Sequence[int]) -> Part:
    """Some keyframes and what was measured between them; all moves but the first pose."""
    known = set(numbers)
    edges = {e: c for e, c in graph.edges_at(numbers).items() if known >= set(e)}
    return Part([*numbers], edges, [k == numbers[0] for k in numbers], [False for _ in numbers])


def whole_part(graph: Graph, members: Sequence[int]) -> Part:
    """All of a submap that may change, and what is linked; the first pose and what is frozen stay.

    Args: members: the submap's keyframes, in order.
    """
    frozen, known = graph.frozen, set(members)
    edges = {e: c for e, c in graph.edges().items() if max(e) >= frozen and known >= set(e)}
    numbers = sorted({k for e in edges for k in e} | {k for k in members if k >= frozen})
    fixed = [k < frozen or k == numbers[0] for k in numbers]
    return Part(numbers, edges, fixed, [k < frozen for k in numbers])


def in_scale_of(
    before: Sequence[Tensor], result: BundleAdjustment, pages: Pages
) -> BundleAdjustment:
    """The result, which has no scale of its own, in the scale of the N poses [7] before it.

    Poses published earlier and later are then of one size. The first pose stays.

    Args: pages: keep the depths.
    """
    T_WC = torch.stack([*before])
    old, after = T_WC[:, :3] - T_WC[0, :3], result.T_WC[:, :3] - result.T_WC[0, :3]
    factor = float((old * after).sum() / (after * after).sum().clamp(min=1e-30))
    if not factor > 0:
        return result
    poses = result.T_WC.clone()
    poses[:, :3] = result.T_WC[0, :3] + factor * after
    depth = tuple(
        pages.keep(InverseDepth(d.value / factor, d.information * factor**2)) for d in result.depth
    )
    return replace(result, T_WC=poses, depth=depth)
