"""Textured scenes with exact pose and depth, rendered on tensors: the sample, tests, training."""

from slam.rendering.motion import (
    SplineTrajectory,
    hand_tremor,
    looking_along,
    spline_trajectory,
    tum_poses,
)
from slam.rendering.render import Rendering, render, render_depth, render_exposure
from slam.rendering.rooms import sample_room, textured_plane, textured_room, untextured_room
from slam.rendering.sample import (
    render_sample,
    render_sample_depth,
    render_sample_image,
    sample_times,
    sample_trajectory,
)
from slam.rendering.scene import Scene, SceneBuilder
from slam.rendering.sensor import develop, exposure_gain
from slam.rendering.shapes import Lamp, Shape, Surface, pose, standing

__all__ = [
    "Lamp",
    "Rendering",
    "Scene",
    "SceneBuilder",
    "Shape",
    "SplineTrajectory",
    "Surface",
    "develop",
    "exposure_gain",
    "hand_tremor",
    "looking_along",
    "pose",
    "render",
    "render_depth",
    "render_exposure",
    "render_sample",
    "render_sample_depth",
    "render_sample_image",
    "sample_room",
    "sample_times",
    "sample_trajectory",
    "spline_trajectory",
    "standing",
    "textured_plane",
    "textured_room",
    "tum_poses",
    "untextured_room",
]
