"""One try at a frame's Sim(3) against a keyframe, by the pointmaps of both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slam.frame import FusedPointmap, Intrinsics, Keyframe, PairPrediction, PointmapMatch
from slam.lie import se3_inv, se3_to_sim3, sim3_inv
from slam.optimization import factor_matches, factor_of
from slam.pointmap_fusion import known_points
from slam.pointmap_residuals import PointMatches, on_rays
from slam.pointmap_settings import PointmapSettings
from slam.pointmap_tracking import PointmapTrack, track_pointmap


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was measured between a keyframe and a frame, and the pose that explains it."""

    keyframe: Keyframe  # as it was then
    pair: PairPrediction  # what was measured
    found: PointmapMatch  # the keyframe's pixels in the frame
    track: PointmapTrack  # of the keyframe's points in the frame: its T_kf is our T_fk
    T_kf: Tensor  # [8] float64 Sim(3), takes points of the frame, in its own scale, to the keyframe

    def lost(self, settings: PointmapSettings) -> bool:
        """Whether the pose is worth nothing."""
        few = self.pair.match_fraction < settings.lost_overlap
        failed = self.track.failure != ""
        return few or failed or self.track.inlier_fraction < settings.lost_inliers

    def verified(self, settings: PointmapSettings) -> bool:
        """Whether the pose may be believed where nothing else speaks for it."""
        return self.pair.match_fraction >= settings.found_overlap and not self.lost(settings)


def solve(
    keyframe: Keyframe,
    pair: PairPrediction,
    T_kf: Tensor,
    settings: PointmapSettings,
    intrinsics: Intrinsics | None,
) -> Attempt:
    """The Sim(3) that explains what was measured.

    Args:
        T_kf: [7] SE(3), where the frame may be.
        intrinsics: px, of both; None: viewing rays are compared.
    """
    if keyframe.pointmap is None or pair.ahead is None:
        raise TypeError("wanted a predictor of pointmaps")
    matches = frame_matches(pair.ahead, keyframe.pointmap, intrinsics, settings.tracked_matches)
    T_fk = in_scale(se3_inv(T_kf), matches)
    track = track_pointmap(matches, T_fk, settings.residuals, settings.tracking, intrinsics)
    return Attempt(keyframe, pair, pair.ahead, track, sim3_inv(track.T_kf))


def in_scale(T_fk: Tensor, matches: PointMatches) -> Tensor:
    """T_fk [7] as a Sim(3) [8] with the scale that the matched points tell."""
    T = se3_to_sim3(T_fk)
    used = matches.weight > 0
    if used.any():
        own, other = (torch.linalg.vector_norm(X[used], dim=-1) for X in (matches.X_k, matches.X_f))
        scale = (own / other.clamp(min=1e-12)).median().double()
        T[:3] *= scale
        T[7] = scale
    return T


def frame_matches(
    found: PointmapMatch, fused: FusedPointmap, intrinsics: Intrinsics | None, most: int
) -> PointMatches:
    """A keyframe's points and the frame's where they match: the frame takes the keyframe's role.

    The keyframe's points, fused from many frames, are projected; the frame's own say the scale.

    Args: intrinsics: px, of both; None: points stay where the network put them.
    """
    own = torch.where(found.searched.confidence[..., None] > 0, found.searched.X_C, 0.0)
    other = known_points(fused)
    if intrinsics is not None:
        own, other = on_rays(own, intrinsics), on_rays(other, intrinsics)
    matches = factor_matches(factor_of(0, 1, found, most), own, other)
    known = torch.linalg.vector_norm(matches.X_f, dim=-1) > 0
    return PointMatches(
        matches.pixel_k, matches.X_k, matches.X_f, torch.where(known, matches.weight, 0.0)
    )
