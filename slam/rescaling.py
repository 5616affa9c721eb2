"""Keyframes and poses whose lengths have another unit than before."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from slam.frame import FusedPointmap, InverseDepth, Keyframe
from slam.paging import Pages


def kept_keyframe(pages: Pages, keyframe: Keyframe) -> Keyframe:
    """The keyframe, what is large of it in the care of `pages`."""
    if pages.unlimited:
        return keyframe
    frame = replace(keyframe.frame, features=pages.keep(keyframe.frame.features))
    depth, points = pages.keep(keyframe.depth), pages.keep(keyframe.pointmap)
    return replace(keyframe, frame=frame, depth=depth, pointmap=points)


def scale_change(old: InverseDepth, new: InverseDepth) -> float:
    """Factor by which distances grow when `new` replaces `old`; 1 where nothing tells."""
    near = (old.value > 0) & (new.value > 0)  # points at infinity tell nothing
    both = near & (old.information > 0) & (new.information > 0)
    if not both.any():
        return 1.0
    return float((old.value[both] / new.value[both]).median())


def rescaled_keyframe(keyframe: Keyframe, T_WC: Tensor, scale: float) -> Keyframe:
    """The keyframe at another pose [7], what it sees `scale` times as far away."""
    value, information = keyframe.depth.value, keyframe.depth.information
    depth = InverseDepth(value / scale, information * scale**2)
    points = scaled_pointmap(keyframe.pointmap, scale)
    return replace(keyframe, T_WC=T_WC, depth=depth, pointmap=points)


def scaled_pointmap(points: FusedPointmap | None, scale: float) -> FusedPointmap | None:
    """A keyframe's points, `scale` times as far away."""
    return None if points is None else replace(points, X_C=points.X_C * scale)


def rescaled(T: Tensor, old: InverseDepth, new: InverseDepth) -> Tensor:
    """A pose [7] relative to a keyframe whose depths have changed from `old` to `new`."""
    return torch.cat([T[:3] * scale_change(old, new), T[3:]])
