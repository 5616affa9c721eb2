"""One focal length from the keyframes' pointmaps, and whether they agree on it."""

from __future__ import annotations

import math

import torch

from slam.focal import FocalEstimate, focal_from_pointmap, fuse_focals
from slam.frame import FusedPointmap, Intrinsics
from slam.pointmap_settings import PointmapSettings


class SelfCalibration:
    """Keeps an estimate for each keyframe; they are fused with their variances.

    The principal point and the ratio of the focal lengths are taken as given.
    """

    def __init__(self, intrinsics: Intrinsics, settings: PointmapSettings) -> None:
        """Args: intrinsics: fx, fy, cx, cy px of the working images, their scale a guess."""
        self.given = intrinsics
        self.settings = settings
        self._estimates: dict[int, FocalEstimate] = {}
        self._seen: dict[int, FusedPointmap] = {}  # what they are of

    def observe(self, number: int, pointmap: FusedPointmap) -> None:
        """What a keyframe's pointmap says now, in place of what it said before."""
        if self._seen.get(number) is pointmap:
            return
        self._seen[number] = pointmap
        fx, fy, cx, cy = self.given
        shape = torch.tensor([1.0, fy / fx, 1.0])  # pixels are as wide as they are high then
        seen = pointmap.mean
        ahead = (seen.confidence > 0) & (seen.X_C[..., 2] > 0)
        if bool((ahead & (seen.X_C[..., :2] != 0).any(-1)).any()):
            found = focal_from_pointmap(seen.X_C * shape, seen.confidence, (cx, cy))
            self._estimates[number] = found

    @property
    def fused(self) -> FocalEstimate:
        """fx in px of all keyframes; nan and inf where they say nothing."""
        return fuse_focals(list(self._estimates.values()))

    @property
    def sigma(self) -> float:
        """Standard deviation of log focal."""
        fused = self.fused
        return math.sqrt(fused.variance) / fused.focal if fused.variance < math.inf else math.inf

    @property
    def intrinsics(self) -> Intrinsics:
        """fx, fy, cx, cy px as they are known now."""
        fx, fy, cx, cy = self.given
        focal = self.fused.focal
        return (focal, focal * fy / fx, cx, cy) if math.isfinite(focal) else self.given

    @property
    def is_stable(self) -> bool:
        """Whether enough keyframes agree well enough for pixels to be compared."""
        usable = sum(e.variance < math.inf for e in self._estimates.values())
        enough = usable >= self.settings.focal_keyframes
        return enough and self.sigma < self.settings.focal_sigma
