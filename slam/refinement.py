"""After the last adjustment: every frame's pose once more, and a weak one where there is none."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from slam.config import Config
from slam.frame import SOLVED, FrameRecord, InverseDepth, TrackState, source_of
from slam.graph import Graph
from slam.lie import se3_interpolate, se3_inv, se3_mul
from slam.measurement import unpack
from slam.predictors.grid import Grid
from slam.shutter import Shutter, unroll
from slam.tracking import track


def refine_frames(graph: Graph, grid: Grid, config: Config) -> None:
    """Solves every measured frame's pose again, against the final depths of its keyframe.

    Nothing to do where the camera is not known: pixels tell nothing then.
    """
    if not graph.pinhole:
        return
    records = _free(graph)
    twist = dict(
        zip((r.index for r in records), graph.twists([r.index for r in records]), strict=True)
    )
    for record in records:
        if record.measurement is None or record.keyframe < 0:
            continue
        keep, measured = unpack(grid, record.measurement)
        keyframe = graph.keyframe(record.keyframe)
        pixel, depth = grid.pixel[keep].contiguous(), thinned_depth(keyframe.depth, keep)
        there = keyframe.frame.index
        first = twist[there] if there in twist else graph.twist(there)
        shutter = Shutter(graph.readout, grid.height, first, twist[record.index])
        T_fk = se3_inv(record.T_kf)
        measured = unroll(pixel, depth.value, measured, T_fk, graph.intrinsics, shutter)
        result = track(pixel, depth, measured, T_fk, graph.intrinsics, config.tracking)
        enough = result.count >= config.tracking.minimum_points / 4  # a quarter was kept
        if enough and result.inlier_fraction > config.tracking.lost_inliers:
            graph.set_record(replace(record, T_kf=se3_inv(result.T_fk)))


def thinned_depth(depth: InverseDepth, keep: Tensor) -> InverseDepth:
    """Depths of some of the grid's places."""
    return InverseDepth(depth.value[keep].contiguous(), depth.information[keep].contiguous())


def fill_gaps(graph: Graph) -> None:
    """Gives frames without a pose one between those of their solved neighbours.

    Those that were never tried become weak; lost ones stay lost. Neighbours are of one source;
    where they are of two submaps, the nearer one in time counts.
    """
    records = _free(graph)
    for source in sorted({source_of(r.index) for r in records}):
        _fill_gaps(graph, [r for r in records if source_of(r.index) == source])


def _free(graph: Graph) -> list[FrameRecord]:
    """Records of all frames; those of a frozen map are left out."""
    return [r for r in graph.records() if graph.frozen == 0 or source_of(r.index) >= 0]


def _fill_gaps(graph: Graph, records: Sequence[FrameRecord]) -> None:
    solved, of = [n for n, r in enumerate(records) if r.state in SOLVED], graph.submaps.of
    if not solved:
        return
    for n, record in enumerate(records):
        if record.state in SOLVED:
            continue
        place = bisect_left(solved, n)
        before = records[solved[max(place - 1, 0)]]
        after = records[solved[min(place, len(solved) - 1)]]
        if of(before.keyframe) != of(after.keyframe):  # two worlds: nothing lies between them
            earlier = record.seconds - before.seconds < after.seconds - record.seconds
            before = after = before if earlier else after
        T_WC = _between(graph, before, after, record.seconds)
        number = before.keyframe
        T_kf = se3_mul(se3_inv(graph.keyframe(number).T_WC), T_WC)
        state = TrackState.LOST if record.state is TrackState.LOST else TrackState.WEAK
        graph.set_record(replace(record, state=state, keyframe=number, T_kf=T_kf))


def _between(graph: Graph, first: FrameRecord, second: FrameRecord, seconds: float) -> Tensor:
    """Pose [7] at a time between two frames, or the nearer one's outside of them."""
    span = second.seconds - first.seconds
    share = 0.0 if span <= 0 else min(max((seconds - first.seconds) / span, 0.0), 1.0)
    return se3_interpolate(
        graph.T_WC(first), graph.T_WC(second), torch.tensor(share, dtype=torch.float64)
    )
