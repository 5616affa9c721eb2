"""The values that flow through the system. Frozen, one comment a field, no computation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from slam.submaps import ONE, Submaps

Intrinsics = tuple[float, float, float, float]  # fx, fy, cx, cy px, at working resolution


class TrackState(Enum):
    """How a frame's pose was obtained."""

    PENDING = "pending"  # seen before the map existed; posed afterwards
    TRACKED = "tracked"  # solved from measurements
    RELOCALISED = "relocalised"  # solved from measurements after being lost
    WEAK = "weak"  # extrapolated: too few measurements to solve it
    LOST = "lost"  # no pose found; written between its neighbours'


SOLVED = (TrackState.TRACKED, TrackState.RELOCALISED)
PER_SOURCE = 2**32  # indices of images that each of the sources of one map has for itself


def source_of(index: int) -> int:
    """Which of the sources of a map the image of an index comes from.

    A run's own is 0, so that its images have the indices that they have there; those that the map
    which it goes on with was made from are -1 (the last one), -2, ... In a file they count from 0.
    """
    return index // PER_SOURCE


@dataclass(frozen=True, slots=True)
class Image:
    """One decoded image of a source."""

    index: int  # place in the source's full list of images, 0-based, whatever --start and --stride
    time: float  # time stamp as the source writes it (s; frame number for ICL-NUIM)
    seconds: float  # the same on a clock in seconds, for pacing and per-second metrics
    rgb: Tensor  # [H, W, 3] uint8, undistorted where the camera is calibrated


@dataclass(frozen=True, slots=True)
class Pointmap:
    """A 3D point for every pixel of one image."""

    X_C: Tensor  # [H, W, 3] float32, camera frame, metres up to scale
    confidence: Tensor  # [H, W] float32, >= 0; 0 = never measured


@dataclass(frozen=True, slots=True)
class PointmapView:
    """What a two-view pointmap network says about one of its images, in view 1's camera.

    Both views of a pair are in camera 1: view 1 holds X_11, view 2 holds X_12, the points of image
    2's pixels seen in camera 1. Networks give a batch of pairs, [B, ...]; matching takes one.
    """

    X: Tensor  # [..., H, W, 3] float32, camera 1, metres up to one scale a pair
    confidence: Tensor  # [..., H, W] float32, of the points; > 1 from a network, 0 = no point
    descriptor: Tensor | None = None  # [..., H, W, D] float32 of norm 1; None = there are none
    descriptor_confidence: Tensor | None = None  # [..., H, W] float32, >= 0; None = all are trusted


@dataclass(frozen=True, slots=True)
class FusedPointmap:
    """A keyframe's points, averaged over all that was seen of them. Replaced, never changed."""

    X_C: Tensor  # [H, W, 3] float32, keyframe's camera, in the world's scale
    confidence: Tensor  # [H, W] float32, summed over what agrees; 0 = nothing known
    count: int  # observations fused

    @property
    def mean(self) -> Pointmap:
        """The points with the confidence of one observation."""
        return Pointmap(self.X_C, self.confidence / max(self.count, 1))


@dataclass(frozen=True, slots=True)
class Correspondence:
    """Where the grid pixels of one image land in another."""

    target: Tensor  # [P, 2] float32, (u, v) px in the other image, sub-pixel
    weight: Tensor  # [P] float32, 1 / variance in 1/px^2; 0 = no correspondence


@dataclass(frozen=True, slots=True)
class InverseDepth:
    """Inverse depth on a keyframe's grid."""

    value: Tensor  # [P] float32, 1/m up to scale
    information: Tensor  # [P] float32, 1 / variance; 0 = never measured


@dataclass(frozen=True, slots=True)
class Features:
    """What a predictor keeps of one image, at working resolution (h x w)."""

    grey: Tensor  # [h, w] uint8
    rgb: Tensor  # [h, w, 3] uint8
    texture: (
        Tensor  # [P] float32, smaller eigenvalue of the structure tensor at the grid, grey^2/px^2
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """One image on its way through the system."""

    index: int  # as Image.index
    time: float  # as Image.time
    seconds: float  # as Image.seconds
    features: Features  # from Predictor.encode


@dataclass(frozen=True, slots=True)
class PairGuess:
    """Dense flow to start from, both ways; None = unknown."""

    forward: Tensor | None = None  # [h, w, 2] float32 px, keyframe to frame
    backward: Tensor | None = None  # [h, w, 2] float32 px, frame to keyframe


@dataclass(frozen=True, slots=True)
class PointmapMatch:
    """Pixels of one image sought in another by the points of both, in the other one's camera."""

    searched: Pointmap  # [H, W] of the image that is searched
    sought: Pointmap  # [H, W] of the other image's pixels, in the searched one's camera and scale
    match: Correspondence  # [H * W] where these pixels are, row by row


@dataclass(frozen=True, slots=True)
class PairPrediction:
    """What a predictor says about a (keyframe, frame) pair."""

    forward: Correspondence  # the keyframe's grid pixels in the frame
    backward: Correspondence  # the frame's grid pixels in the keyframe
    flow: PairGuess  # the dense flow behind them: the next pair's guess
    match_fraction: float  # of the keyframe's textured grid pixels; of its points, by pointmaps
    median_flow: float  # px, over all of the keyframe's grid pixels with a weight
    sharpness: float  # the frame's texture over the keyframe's where they match; < 1 = blurred
    ahead: PointmapMatch | None = None  # keyframe's pixels sought in the frame; None: only flow
    behind: PointmapMatch | None = None  # frame's pixels sought in the keyframe; None: not asked


@dataclass(frozen=True, slots=True)
class TrackResult:
    """The pose of a frame against a keyframe."""

    T_fk: Tensor  # [7] float64 SE(3): takes points of the keyframe to the frame
    inlier_fraction: float  # share of the measurements within 3 sigma
    count: int  # measurements used
    cost: float  # mean robust cost of a measurement, whitened


@dataclass(frozen=True, slots=True)
class Keyframe:
    """One node of the map. Replaced, never changed."""

    frame: Frame  # the image it was made from
    T_WC: Tensor  # [7] float64 SE(3): takes camera points to the world
    depth: InverseDepth  # [P] on the grid of its image
    pointmap: FusedPointmap | None = None  # of all its pixels; None: the predictor has none


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """What is kept of every input frame."""

    index: int  # as Image.index
    time: float  # as Image.time
    seconds: float  # as Image.seconds
    state: TrackState  # how its pose was obtained
    keyframe: int  # number of its reference keyframe; -1 = none yet
    T_kf: Tensor  # [7] float64 SE(3): takes points of the frame to its reference keyframe
    measurement: Tensor | None  # [Q, 3] int16, as measurement.pack makes it; None = none


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one frame."""

    record: FrameRecord  # as stored in the graph
    T_WC: Tensor | None  # [7] its pose as published now; None = none: the start is on trial
    submap: int = 0  # in whose world that is


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An immutable view of the map for the viewer, exporters and evaluation."""

    keyframes: tuple[Keyframe, ...]  # in the order they were made
    records: tuple[FrameRecord, ...]  # in the order of time
    edges: tuple[tuple[int, int], ...]  # (i, j): keyframe i's pixels were measured in keyframe j
    intrinsics: Intrinsics  # as estimated now
    submaps: Submaps = ONE  # of the keyframes
