"""Keyframes and records of a map that holds next to nothing: for tests of the graph."""

from __future__ import annotations

import torch

from slam.frame import Features, Frame, FrameRecord, InverseDepth, Keyframe, TrackState

IDENTITY = torch.tensor([0.0, 0, 0, 0, 0, 0, 1], dtype=torch.float64)


def keyframe(index: int, depth: float = 1.0) -> Keyframe:
    features = Features(torch.zeros(8, 8), torch.zeros(8, 8, 3), torch.ones(4))
    frame = Frame(index, float(index), float(index), features)
    return Keyframe(frame, IDENTITY, InverseDepth(torch.full((4,), depth), torch.ones(4)))


def record(index: int, number: int, x: float) -> FrameRecord:
    T_kf = IDENTITY.clone()
    T_kf[0] = x
    return FrameRecord(index, float(index), float(index), TrackState.TRACKED, number, T_kf, None)
