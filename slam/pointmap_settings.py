"""Settings of what works on pointmaps, with units; config.py puts them beside the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slam.settings import Section, setting


@dataclass(frozen=True, slots=True)
class DescentSettings(Section):
    """Levenberg-Marquardt over matched points, and which of them are left out in the end."""

    iterations: int = setting(50, help="at most, of each descent", minimum=1)
    damping: float = setting(1e-4, help="first, relative to the diagonal", minimum=0.0)
    relative_decrease: float = setting(
        1e-6, help="of the cost, at which it has converged", minimum=0.0
    )
    outlier: float = setting(
        6.0,
        help="times the middle match's error beyond which one is left out in the end",
        minimum=1.0,
    )


@dataclass(frozen=True, slots=True)
class PoseGraphSettings(Section):
    """Sim(3) optimisation of keyframes."""

    descent: DescentSettings = DescentSettings(iterations=10, damping=1e-6)  # at each scale
    factor_outlier: float = setting(
        20.0,
        help="mean robust cost of a match at which its whole factor is half believed",
        minimum=1e-3,
    )


@dataclass(frozen=True, slots=True)
class MatchingSettings(Section):
    """Pixels of one pointmap found in another."""

    method: Literal["projective", "reciprocal"] = setting(
        "projective",
        help="projective follows viewing rays; reciprocal compares descriptors: slow, no guess",
    )
    iterations: int = setting(10, help="of the descent to a pixel", minimum=1, maximum=100)
    damping: float = setting(1e-3, help="of its first step, relative", minimum=0.0)
    ray_error: float = setting(
        0.5, unit="px", help="largest angle left between the rays of a match", minimum=0.0
    )
    gap: float = setting(
        0.1,
        help="largest distance between the points of a match, of theirs from the camera",
        minimum=0.0,
    )
    spread: float = setting(
        3.0, help="times the middle match's gap at which a match is half believed", minimum=0.1
    )
    consistency: float = setting(
        1.5, unit="px", help="largest way off that descriptors lead back to", minimum=0.0
    )
    radius: int = setting(
        3,
        unit="px",
        help="a window of descriptors has 2 n + 1 px a side; 0 = they are not compared",
        minimum=0,
        maximum=20,
    )
    dilation: int = setting(
        5,
        unit="px",
        help="between the pixels of the first window; 1 less in each that follows",
        minimum=1,
        maximum=20,
    )
    descriptor_confidence: float = setting(1.5, help="that a match needs at least", minimum=0.0)
    sigma: float = setting(
        1.0,
        unit="px",
        help="standard deviation of a match whose descriptor confidence is 1",
        minimum=1e-3,
    )
    stride: int = setting(
        8, unit="px", help="between the pixels that reciprocal matching starts from", minimum=1
    )
    rounds: int = setting(
        10, help="there and back, after which a start is given up", minimum=1, maximum=100
    )


@dataclass(frozen=True, slots=True)
class ResidualSettings(Section):
    """How far matched points of two pointmaps may be from each other."""

    sigma_ray: float = setting(0.003, unit="rad", help="of a viewing ray", minimum=1e-6)
    sigma_distance: float = setting(0.3, help="relative, of a distance, beside rays", minimum=1e-6)
    sigma_pixel: float = setting(1.0, unit="px", help="of a match, calibrated", minimum=1e-6)
    sigma_depth: float = setting(0.3, help="relative, of a depth, beside pixels", minimum=1e-6)
    huber: float = setting(
        1.345, unit="sigma", help="residual beyond which the loss grows linearly", minimum=1e-3
    )
    minimum_matches: int = setting(24, help="that a Sim(3) needs", minimum=3)


@dataclass(frozen=True, slots=True)
class PointmapFusionSettings(Section):
    """How observations of a keyframe's points are averaged."""

    gate: float = setting(
        0.1, help="relative distance of two points at which they half disagree", minimum=1e-6
    )


@dataclass(frozen=True, slots=True)
class SimulatedSettings(Section):
    """How wrong the simulated network is. The defaults make it perfect.

    Depths err along the rays of the pixel's own camera; relative errors are of log distance.
    """

    world: Literal["measured", "sample"] = setting(
        "measured",
        help="depth maps of the recording, or cast in the bundled sample's room from true poses",
    )
    seed: int = setting(0, help="of all the noise", minimum=0)
    pair_scale: float = setting(
        0.0, help="relative sigma of the scale that a pair's two pointmaps share", minimum=0.0
    )
    focal: float = setting(
        0.0, help="relative sigma of the focal length that a pair believes in", minimum=0.0
    )
    warp: float = setting(
        0.0, help="relative rms of a smooth warp of depth, of each view of a pair", minimum=0.0
    )
    noise: float = setting(0.0, help="relative rms of every pixel's depth", minimum=0.0)
    ray_noise: float = setting(
        0.0, unit="rad", help="rms of every pixel's direction, on each axis", minimum=0.0
    )
    noise_spread: float = setting(
        0.5,
        help="rms of the log of the pixel noise over an image; confidence knows it",
        minimum=0.0,
        maximum=2.0,
    )
    holes: float = setting(
        0.0, help="share of pixels, in blobs, without a point", minimum=0.0, maximum=0.9
    )
    wrong: float = setting(
        0.0,
        help="share of pixels, in blobs, that are wrong at full confidence",
        minimum=0.0,
        maximum=0.9,
    )
    wrong_depth: float = setting(0.4, help="size of their error, as log distance", minimum=0.0)
    view_bias: float = setting(
        0.0,
        help="relative rms of an error that depends on the direction a surface is seen from only",
        minimum=0.0,
    )
    confidence: float = setting(
        10.0, help="above 1, of a point with the image's rms noise", minimum=0.0
    )
    descriptor_noise: float = setting(
        0.0, help="rms length of the noise on the unit descriptors", minimum=0.0
    )
    finest: float = setting(
        0.1, unit="m", help="shortest wavelength of the descriptors", minimum=1e-3
    )
    coarsest: float = setting(
        6.0, unit="m", help="longest wavelength of the descriptors", minimum=1e-3
    )


@dataclass(frozen=True, slots=True)
class PointmapSettings(Section):
    """The system on pointmaps: `predictor: mast3r` or `simulated`."""

    checkpoint: str = setting("", help="file with the weights of MASt3R or DUSt3R")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", help="of the network; auto: a GPU's")
    compiled: bool = setting(
        False, help="the network by torch.compile: minutes at the first images, then faster"
    )
    long_side: int = setting(
        512, unit="px", help="long side of the working images", minimum=32, maximum=2048
    )
    grid_stride: int = setting(
        8, unit="px", help="between the pixels whose depths are adjusted", minimum=1
    )
    tracked_matches: int = setting(6000, help="that a frame is posed by, at most", minimum=100)
    edge_matches: int = setting(3000, help="that an edge keeps of each direction", minimum=100)
    keyframe_overlap: float = setting(
        0.333, help="matched share below which a frame becomes a keyframe", minimum=0.0, maximum=1.0
    )
    lost_overlap: float = setting(
        0.05, help="matched share below which a frame is lost", minimum=0.0, maximum=1.0
    )
    edge_overlap: float = setting(
        0.1,
        help="matched share, both ways, that an edge to a keyframe not next in time wants",
        minimum=0.0,
        maximum=1.0,
    )
    found_overlap: float = setting(
        0.3, help="matched share at which a lost frame counts as found", minimum=0.0, maximum=1.0
    )
    lost_inliers: float = setting(
        0.1, help="share of agreeing matches below which it is lost", minimum=0.0, maximum=1.0
    )
    depth_sigma: float = setting(
        0.1, help="relative, of a depth whose confidence is 1", minimum=1e-4
    )
    prior_sigma: float = setting(
        0.3, help="the same as a prior of dense bundle adjustment: errors are shared", minimum=1e-4
    )
    focal_sigma: float = setting(
        0.01, help="relative, of the focal length that lets pixels replace rays", minimum=1e-6
    )
    focal_keyframes: int = setting(4, unit="keyframes", help="that must agree on it", minimum=2)
    dense: bool = setting(True, help="adjust depths too, once the focal length is known")
    residuals: ResidualSettings = ResidualSettings()
    tracking: DescentSettings = DescentSettings()
    fusion: PointmapFusionSettings = PointmapFusionSettings()
    pose_graph: PoseGraphSettings = PoseGraphSettings()
