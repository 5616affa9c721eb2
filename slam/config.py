"""Settings of every component, with units. Defaults live here; YAML files hold differences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slam.data import data_path
from slam.flow_settings import FlowSettings
from slam.live_settings import LiveSettings
from slam.pointmap_settings import MatchingSettings, PointmapSettings, SimulatedSettings
from slam.retrieval_settings import LoopSettings, RetrievalSettings
from slam.settings import Section, read_settings, setting, to_yaml, with_overrides

__all__ = [
    "Config",
    "FlowSettings",
    "LiveSettings",
    "MatchingSettings",
    "PointmapSettings",
    "SimulatedSettings",
    "load_config",
    "to_yaml",
]


@dataclass(frozen=True, slots=True)
class TrackingSettings(Section):
    """Pose of a frame against its keyframe."""

    huber: float = setting(
        1.5, unit="sigma", help="residual beyond which the loss grows linearly", minimum=0.0
    )
    outlier: float = setting(
        20.0, unit="sigma", help="beyond it a measurement is dropped", minimum=0.0
    )
    iterations: int = setting(12, help="of Gauss-Newton at most", minimum=1)
    known_depth_sigma: float = setting(
        0.2, help="relative, of the vaguest depth used where enough are better", minimum=0.0
    )
    enough_known: float = setting(
        0.15,
        help="share of measurements with such a depth that is enough",
        minimum=0.0,
        maximum=1.0,
    )
    unknown_depth_sigma: float = setting(
        1.0, help="relative, of a depth never measured", minimum=0.0
    )
    minimum_points: int = setting(60, help="measurements that a pose needs", minimum=6)
    good_inliers: float = setting(
        0.4, help="share below which the pose is tried anew", minimum=0.0, maximum=1.0
    )
    lost_inliers: float = setting(
        0.3, help="share below which the frame is lost", minimum=0.0, maximum=1.0
    )
    lost_matches: float = setting(
        0.1, help="matched share below which it is lost", minimum=0.0, maximum=1.0
    )
    pnp_error: float = setting(
        2.0, unit="px", help="outlier limit of the pose from scratch", minimum=0.0
    )


@dataclass(frozen=True, slots=True)
class MappingSettings(Section):
    """Inverse depths of a keyframe's grid."""

    gate: float = setting(
        3.0,
        unit="sigma",
        help="largest disagreement with the epipolar line or the stored depth",
        minimum=0.0,
    )
    relative_floor: float = setting(0.004, help="smallest relative sigma of a depth", minimum=0.0)
    initial: float = setting(
        0.3, help="share of its information that a first observation is given", minimum=0.0
    )
    decay: float = setting(
        0.9, help="factor on the information after a contradiction", minimum=0.0, maximum=1.0
    )
    warp_inflation: float = setting(0.03, help="relative sigma added when handed on", minimum=0.0)
    hole_sigma: float = setting(0.33, help="relative sigma of a filled hole", minimum=0.0)


@dataclass(frozen=True, slots=True)
class KeyframeSettings(Section):
    """When a frame becomes a keyframe."""

    still: float = setting(
        0.3, unit="px", help="median motion below which a frame is posed and no more", minimum=0.0
    )
    match_fraction: float = setting(
        0.4, help="matched share below which a frame becomes a keyframe", minimum=0.0, maximum=1.0
    )
    flow: float = setting(
        0.08, unit="widths", help="median flow above which a frame becomes a keyframe", minimum=0.0
    )
    sharpness: float = setting(
        0.5,
        help="texture, relative to the keyframe's, below which a sharper frame is awaited",
        minimum=0.0,
    )
    trial_flow: float = setting(
        0.06, unit="widths", help="the same while the start is on trial", minimum=0.0
    )


@dataclass(frozen=True, slots=True)
class StartSettings(Section):
    """Start-up from two views."""

    parallax: float = setting(
        0.02, unit="widths", help="least RMS flow left after removing rotation", minimum=0.0
    )
    hurried_parallax: float = setting(
        0.01, unit="widths", help="the same where the next frame will see little of it", minimum=0.0
    )
    rotation_residual: float = setting(
        0.0015, unit="widths", help="least median residual of the best pure rotation", minimum=0.0
    )
    epipolar_error: float = setting(
        0.7, unit="px", help="outlier limit of the essential matrix", minimum=0.0
    )
    inlier_fraction: float = setting(
        0.6, help="that the essential matrix must keep", minimum=0.0, maximum=1.0
    )
    ambiguity: float = setting(
        1.3, help="cost ratio below which another motion explains the views too", minimum=1.0
    )
    known_sigma: float = setting(0.3, help="relative, of a depth that counts as known", minimum=0.0)
    known_fraction: float = setting(
        0.35, help="of measured pixels that must be known", minimum=0.0, maximum=1.0
    )
    match_fraction: float = setting(
        0.3, help="below it a newer reference is taken", minimum=0.0, maximum=1.0
    )
    minimum_points: int = setting(150, help="measurements that a start needs", minimum=8)
    sample: int = setting(1500, help="matches given to the robust estimators", minimum=8)
    iterations: int = setting(10, help="of the two-view adjustment", minimum=1)
    trials: int = setting(3, help="starts after which one is kept, however poor", minimum=1)
    trial_keyframes: int = setting(5, help="keyframes after which a start is judged", minimum=3)
    trial_cost: float = setting(10.0, help="robust cost per measurement it may have", minimum=0.0)
    looks: int = setting(3, help="more at a pair that matches little, by its own map", minimum=0)
    between: int = setting(3, help="views in between that a map must explain", minimum=0)
    remember: int = setting(
        300, unit="frames", help="before the start, posed afterwards", minimum=1
    )
    trial_known: float = setting(
        0.2, help="share of depths known by then", minimum=0.0, maximum=1.0
    )


@dataclass(frozen=True, slots=True)
class RelocalizationSettings(Section):
    """Finding a lost frame again."""

    keyframes: int = setting(
        12, unit="keyframes", help="most alike ones whose features are matched", minimum=1
    )
    recent: int = setting(3, unit="keyframes", help="most recent ones, likewise", minimum=0)
    candidates: int = setting(3, unit="keyframes", help="of them that get a pose", minimum=1)
    features: int = setting(600, help="ORB corners of an image", minimum=50)
    minimum_matches: int = setting(25, help="that a pose needs", minimum=6)
    error: float = setting(3.0, unit="px", help="outlier limit of the pose", minimum=0.0)
    inliers: float = setting(
        0.5, help="share of dense measurements that must agree", minimum=0.0, maximum=1.0
    )
    overlap: float = setting(
        0.15, help="matched share that dense flow must reach", minimum=0.0, maximum=1.0
    )
    retried: int = setting(60, unit="frames", help="lost last, tried again at the end", minimum=0)
    patience: float = setting(
        1.0, unit="s", help="lost for so long, a new submap is begun beside the old", minimum=0.0
    )


@dataclass(frozen=True, slots=True)
class BundleAdjustmentSettings(Section):
    """Dense bundle adjustment."""

    window: int = setting(8, unit="keyframes", help="adjusted after every keyframe", minimum=2)
    anchors: int = setting(2, unit="keyframes", help="of the window whose poses stay", minimum=1)
    neighbours: int = setting(
        3, unit="keyframes", help="before and after, always linked", minimum=1
    )
    covisible: int = setting(6, help="most edges of a keyframe besides its neighbours", minimum=0)
    covisible_at_once: int = setting(
        3, help="of them when the keyframe is made; the rest at the end", minimum=0
    )
    overlap: float = setting(
        0.3, help="share of pixels seen that makes a pair covisible", minimum=0.0, maximum=1.0
    )
    covisible_flow: float = setting(
        0.18, unit="widths", help="largest median flow of a pair", minimum=0.0
    )
    minimum_match: float = setting(
        0.06, help="matched share of grid that an edge needs", minimum=0.0, maximum=1.0
    )
    iterations: int = setting(4, help="in the window", minimum=0)
    global_iterations: int = setting(6, help="of a global round", minimum=1)
    after_loop: int = setting(
        400,
        unit="keyframes",
        help="around a loop, that are adjusted at once; the rest at the end",
        minimum=2,
    )
    global_rounds: int = setting(2, help="with flow measured again", minimum=0)
    remeasure: float = setting(
        0.5, unit="px", help="induced flow change that measures an edge again", minimum=0.0
    )
    huber: float = setting(
        2.0, unit="sigma", help="residual beyond which the loss grows linearly", minimum=0.0
    )
    outlier: float = setting(
        50.0, unit="sigma", help="beyond it a measurement is dropped", minimum=0.0
    )
    damping: float = setting(1e-4, help="of Levenberg-Marquardt, relative", minimum=0.0)
    depth_damping: float = setting(0.0, help="on the inverse depths, relative", minimum=0.0)
    depth_prior_sigma: float = setting(
        10.0, help="relative, keeps unseen depths in place", minimum=0.0
    )
    relative_decrease: float = setting(1e-4, help="of the cost, at which it stops", minimum=0.0)


@dataclass(frozen=True, slots=True)
class MapSettings(Section):
    """The dense cloud that is written."""

    stride: int = setting(2, unit="px", help="distance of its pixels", minimum=1)
    reach: int = setting(
        3, unit="grid steps", help="how far depths count for a pixel", minimum=1, maximum=8
    )
    color: float = setting(
        12.0, unit="grey levels", help="colour difference at which they hardly count", minimum=0.1
    )
    confidence: float = setting(
        20.0, help="1 / relative sigma that a written point has at least", minimum=0.0
    )


@dataclass(frozen=True, slots=True)
class FocalSettings(Section):
    """Self-calibration of one focal length."""

    first: int = setting(3, unit="keyframes", help="when it is first freed", minimum=3)
    growth: float = setting(1.3, help="of the keyframe count until it is freed again", minimum=1.01)
    settled: int = setting(
        16, unit="keyframes", help="from when on it is only refined where it is", minimum=3
    )
    spread: float = setting(
        1.4, help="factor between the focal lengths that are tried until then", minimum=1.0
    )
    iterations: int = setting(30, help="of each such adjustment", minimum=1)
    relative_decrease: float = setting(1e-6, help="of the cost, at which it stops", minimum=0.0)
    start_range: float = setting(
        1.6, help="factor up and down to which a start tries focal lengths", minimum=1.0
    )
    start_count: int = setting(7, help="focal lengths that a start tries", minimum=1)

    def factors(self) -> tuple[float, ...]:
        """Focal lengths to adjust from, relative to the one that is believed."""
        return (1.0, self.spread, 1 / self.spread)

    def start_factors(self) -> tuple[float, ...]:
        """Focal lengths to start with, relative to the one that is guessed."""
        steps = max(self.start_count - 1, 1)
        return tuple(
            self.start_range ** (2 * n / steps - 1) if self.start_count > 1 else 1.0
            for n in range(self.start_count)
        )


@dataclass(frozen=True, slots=True)
class ShutterSettings(Section):
    """Rolling shutter: rows that are read one after the other."""

    readout: float | None = setting(
        None,
        unit="s",
        help="from the first row to the last; negative = upwards, 0 = global, null = estimated",
        minimum=-0.1,
        maximum=0.1,
    )
    first: int = setting(5, unit="keyframes", help="when it is first estimated", minimum=3)
    growth: float = setting(2.0, help="of the keyframe count until the next time", minimum=1.01)
    settled: int = setting(24, unit="keyframes", help="when it is estimated last", minimum=3)
    step: float = setting(0.01, unit="s", help="between the readouts that are tried", minimum=1e-4)
    huber: float = setting(
        10.0, unit="sigma", help="of the adjustments that are compared", minimum=0.0
    )
    limit: float = setting(0.034, unit="s", help="largest estimate", minimum=0.0)
    least_gain: float = setting(
        0.02, help="share of the cost that it must save; else the shutter is global", minimum=0.0
    )


@dataclass(frozen=True, slots=True)
class SourceSettings(Section):
    """Where images come from."""

    path: str = setting("", help="folder of a data set or of images, or a video file")
    format: str = setting("auto", help="tum, euroc, ...; auto: recognised by content")
    calibration: str = setting("auto", help="auto, none, a published name or a file")
    fov: float = setting(
        60.0,
        unit="deg",
        help="horizontal, to start from where uncalibrated",
        minimum=10.0,
        maximum=150.0,
    )
    start: int = setting(0, unit="frames", help="index of the first image", minimum=0)
    end: int | None = setting(
        None, unit="frames", help="index of the image to stop before", minimum=0
    )
    stride: int = setting(1, unit="frames", help="use every n-th image", minimum=1)


@dataclass(frozen=True, slots=True)
class RunSettings(Section):
    """How a run goes."""

    out: str = setting("", help="folder of the results; empty = runs/<source>-<time>")
    map: str = setting("", help="map.slam, or a run's folder, that is gone on with; empty = none")
    realtime: bool = setting(False, help="paced by the time stamps; the newest frame wins")
    ahead: int = setting(
        4, unit="frames", help="that tracking may be ahead of the backend, offline", minimum=0
    )
    threads: int = setting(2, help="of the kernels", minimum=1, maximum=256)
    memory_budget: float | None = setting(
        None,
        unit="MB",
        help="of the whole process; what the map has beyond it goes to the disk; null = no limit",
        minimum=1.0,
    )
    scratch: str = setting("", help="folder for that; empty = as --out, else the present one")
    journal: bool = setting(True, help="keep what `slam resume` needs after a crash")
    keep_journal: bool = setting(False, help="also when everything is saved")
    on_journal_error: Literal["stop", "continue"] = setting(
        "stop", help="what to do where it cannot be written: save and stop, or go on without"
    )


@dataclass(frozen=True, slots=True)
class Config(Section):
    """Everything a run depends on."""

    predictor: Literal["flow", "mast3r", "simulated"] = setting(
        "flow",
        help="flow needs no weights; mast3r wants a checkpoint, of DUSt3R too; simulated, a "
        "testing tool, wants true depth and poses",
    )
    source: SourceSettings = SourceSettings()
    live: LiveSettings = LiveSettings()
    run: RunSettings = RunSettings()
    flow: FlowSettings = FlowSettings()
    start: StartSettings = StartSettings()
    tracking: TrackingSettings = TrackingSettings()
    mapping: MappingSettings = MappingSettings()
    matching: MatchingSettings = MatchingSettings()
    pointmap: PointmapSettings = PointmapSettings()
    simulated: SimulatedSettings = SimulatedSettings()
    keyframes: KeyframeSettings = KeyframeSettings()
    relocalization: RelocalizationSettings = RelocalizationSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    loops: LoopSettings = LoopSettings()
    bundle_adjustment: BundleAdjustmentSettings = BundleAdjustmentSettings()
    focal: FocalSettings = FocalSettings()
    shutter: ShutterSettings = ShutterSettings()
    map: MapSettings = MapSettings()


def load_config(path_or_preset: str | Path | None, overrides: Iterable[str] = ()) -> Config:
    """The defaults, changed by a YAML file or a preset, then by `section.key=value` overrides.

    Args:
        path_or_preset: a file (it ends in .yaml or .yml), the name of a preset, or None.
    Raises ValueError for an unknown key or a wrong value, FileNotFoundError for a missing file.
    """
    config = Config()
    if path_or_preset is not None:
        path = Path(path_or_preset)
        is_file = path.suffix in (".yaml", ".yml")
        config = read_settings(config, path if is_file else data_path("configs", str(path)))
    return with_overrides(config, overrides)
