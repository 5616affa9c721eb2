"""What a run leaves behind: trajectories, map, report, picture."""

from __future__ import annotations

import json
import logging
import os
import platform
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from slam import __version__
from slam.config import Config, to_yaml
from slam.densification import densify
from slam.evaluation import EvaluationResult, evaluate
from slam.evaluation.report import plot_run, write_map_picture
from slam.export import PointCloud, write_ply
from slam.frame import (
    SOLVED,
    FrameRecord,
    InverseDepth,
    Keyframe,
    Snapshot,
    Step,
    TrackState,
    source_of,
)
from slam.graph import Graph
from slam.journal_records import Published
from slam.map_parts import parts_of
from slam.mapcloud import thinned_cloud
from slam.output_files import Files
from slam.predictors import Grid
from slam.saved_map import Origin, Rows, SavedMap, save_map, write_arrays
from slam.sources import ImageSource
from slam.submap_outputs import path_of, save_submaps, submap_words, trajectory_of
from slam.system import Slam
from slam.trajectory import Trajectory, write_atomically, write_tum

log = logging.getLogger(__name__)


@dataclass
class RunNotes:
    """What is noted while a run goes."""

    causal: list[tuple[float, np.ndarray, int]] = field(  # time, T_WC [7], its submap then
        default_factory=list
    )
    posed_at: dict[int, float] = field(default_factory=dict)  # index → time.monotonic()
    started: float = 0.0  # time.perf_counter() when the loop began
    loop_seconds: float = 0.0  # wall time of the loop
    total_seconds: float = 0.0  # with the final adjustment

    def seconds(self) -> float:
        """Wall time since the loop began."""
        return time.perf_counter() - self.started

    def note(self, step: Step) -> None:
        """Keeps the pose of a frame as first published."""
        self.posed_at[step.record.index] = time.monotonic()
        pose = step.T_WC if step.record.state in SOLVED else None
        in_map = step.record.keyframe >= 0
        self.publish(Published(step.record.time, pose, in_map, step.submap))

    def publish(self, said: Published) -> None:
        """The same of a frame that a run posed before it was resumed."""
        if not said.in_map:  # nothing yet, or a start was discarded with its world
            self.causal.clear()
        elif said.T_WC is not None:
            self.causal.append((said.time, said.T_WC.numpy(), said.submap))


@dataclass(frozen=True)
class RunResult:
    """What a run left behind."""

    folder: Path  # where everything was written
    report: dict[str, Any]  # as report.json
    exit_code: int  # 0 done, 130 interrupted

    def summary(self) -> str:
        """A few lines for a person."""
        report = self.report
        lines = [
            f"{report['frames']} frames, {report['posed']} posed, {report['weak']} weak, "
            f"{report['lost']} lost, {report['keyframes']} keyframes, {report['edges']} edges",
            f"{report['frames_per_second']['loop']:.1f} frames/s in the loop, "
            f"{report['frames_per_second']['with_final_adjustment']:.1f} with the final adjustment",
        ]
        if len(report["submaps"]) > 1:
            lines.append(submap_words(report["submaps"]))
        if report.get("latency"):
            lines.append(_real_time_words(report))
        if report.get("focal"):
            focal = report["focal"]
            sigma = focal["sigma_pixels"]
            spread = "not estimated" if sigma is None else f"+- {sigma:.1f} px"
            lines.append(f"focal length {focal['pixels']:.1f} px, {spread}")
        for name in ("ate", "ate_causal"):
            if report.get(name):
                lines.append(f"{name.replace('_', ' ').upper()} {_ate_words(report[name])}")
        lines.append(f"written to {self.folder}")
        return "\n".join(lines)


def _ate_words(ate: dict[str, float]) -> str:
    return (
        f"{ate['sim3_rmse']:.4f} m after Sim(3) alignment "
        f"({100 * ate['sim3_rmse'] / max(ate['path_length'], 1e-9):.2f} % of the path)"
    )


def _real_time_words(report: dict[str, Any]) -> str:
    p50, p95 = report["latency_ms"]["p50"], report["latency_ms"]["p95"]
    waited = sum(wait["to"] - wait["from"] for wait in report.get("live", {}).get("waited", []))
    gone = f"; waited {waited:.1f} s for the camera" if waited else ""
    dropped = f"{report['dropped']} frames dropped"
    return f"{dropped}; {p50:.0f} ms (p95 {p95:.0f} ms) from image to pose{gone}"


def save(
    files: Files,
    slam: Slam,
    source: ImageSource,
    config: Config,
    notes: RunNotes,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """Writes every output file, as far as that can be done; returns the report.

    Of a map that was gone on with, only the map's files have more than this source's frames.
    Submaps that nothing ties to the map have files of their own, and no frame in the others.
    """
    now = slam.graph.copy()  # which goes on, in real time
    parts = parts_of(now, 0 if config.run.map else None)
    graph, snapshot = parts[0].graph, parts[0].graph.snapshot()
    records = tuple(r for r in now.records() if source_of(r.index) == 0)
    posed = [r for r in snapshot.records if source_of(r.index) == 0 and r.keyframe >= 0]
    trajectory = path_of(graph, posed)
    causal = trajectory_of([(t, T) for t, T, submap in notes.causal if submap == parts[0].name])
    made = [k for k in snapshot.keyframes if _is_own(k)]
    keyframes = trajectory_of(sorted((k.frame.time, k.T_WC.numpy()) for k in made))
    for name, poses in (
        ("trajectory.txt", trajectory),
        ("trajectory_causal.txt", causal),
        ("keyframes.txt", keyframes),
    ):
        with files.writing(name) as path:
            write_tum(path, source.to_source_convention(poses))
    resolved = replace(config, run=replace(config.run, out=""))  # where it is, it is
    with files.writing("config.yaml") as path:
        write_atomically(path, to_yaml(resolved).encode())
    cloud = _save_map(files, slam, source, graph, resolved)
    with files.writing("map.jpg") as path:
        write_map_picture(path, cloud.points, cloud.colors, trajectory)
    weak = np.array([r.time for r in records if r.state not in SOLVED])
    final = _evaluation(trajectory, source, weak)
    report = _report(slam, source, notes, records, graph) | extra
    report["posed"] = len(parts[0].posed)
    report["submaps"] = save_submaps(files, slam, source, parts, resolved)
    if config.run.map:
        report["continued"] = {"map": config.run.map, "keyframes_made": len(made)}
    report["points"] = len(cloud.points)
    report["ate"] = None if final is None else _ate(final)
    causal_result = _evaluation(causal, source, np.empty(0))
    report["ate_causal"] = None if causal_result is None else _ate(causal_result)
    with files.writing("report.json") as path:
        write_atomically(path, json.dumps(report, indent=1).encode())
    with files.writing("report.png") as path:
        plot_run(
            path,
            title=source.name,
            estimate=trajectory,
            states=[r.state.value for r in posed],
            ground_truth=None if final is None else source.ground_truth,
            result=final,
            points=cloud.points,
            colors=cloud.colors,
            keyframe_positions=keyframes.positions,
        )
    return report


def _save_map(
    files: Files, slam: Slam, source: ImageSource, graph: Graph, config: Config
) -> PointCloud:
    """The map's file, keyframes with dense depths, and the cloud of them all."""
    snapshot = graph.snapshot()
    with slam.timings.measure("dense map"):
        pages = graph.pages
        grid, depths = densify(snapshot, slam.predictor.grid, config, pages)
    coarse, origin = slam.predictor.grid, Origin.of(source)
    with files.writing("map.slam") as path, slam.timings.measure("map file"):
        save_map(path, SavedMap.from_graph(graph, origin, config, coarse, (grid, depths)))
    with files.writing("keyframes.npz") as path:
        _write_keyframes(path, snapshot, grid, depths, len(source.recorded))
    with slam.timings.measure("dense map"):
        cloud = thinned_cloud(snapshot, grid, depths, config.map.confidence, pages)
    with files.writing("map.ply") as path:
        write_ply(path, cloud.points, cloud.colors, cloud.confidence)
    return cloud


def _write_keyframes(
    path: Path, snapshot: Snapshot, grid: Grid, depths: Sequence[InverseDepth], images: int
) -> None:
    """Poses and dense depths of the keyframes, for `slam eval-depth` and other programs.

    Those of the sources of a map that was gone on with are in `map.slam` alone.

    Args: images: of the whole recording; with the times they tell it from another.
    """
    place = [n for n, keyframe in enumerate(snapshot.keyframes) if _is_own(keyframe)]
    keyframes, depths = [snapshot.keyframes[n] for n in place], [depths[n] for n in place]
    number = {n: own for own, n in enumerate(place)}
    edges = [[number[n] for n in e] for e in snapshot.edges if set(e) <= number.keys()]
    size = len(keyframes), len(grid.pixel)
    parts = dict(
        index=np.array([k.frame.index for k in keyframes], np.int64),
        time=np.array([k.frame.time for k in keyframes], np.float64),
        images=np.array(images),
        T_WC=np.array([k.T_WC.numpy() for k in keyframes]).reshape(-1, 7),
        inverse_depth=Rows(np.dtype(np.float32), size, lambda: (d.value.numpy() for d in depths)),
        information=Rows(
            np.dtype(np.float32), size, lambda: (d.information.numpy() for d in depths)
        ),
        pixel=grid.pixel.numpy(),
        working_size=np.array([grid.width, grid.height]),
        intrinsics=np.array(snapshot.intrinsics),
        edges=np.array(edges, np.int64).reshape(-1, 2),
    )
    write_arrays(path, parts)


def _is_own(keyframe: Keyframe) -> bool:
    """Whether a keyframe was made from this run's source."""
    return source_of(keyframe.frame.index) == 0


def _evaluation(
    estimate: Trajectory, source: ImageSource, weak: np.ndarray
) -> EvaluationResult | None:
    """Against ground truth, where there is one that the path can be compared with."""
    if source.ground_truth is None or len(estimate) < 3:
        return None
    try:
        return evaluate(estimate, source.ground_truth, frames=source.times, weak=weak)
    except ValueError as reason:
        log.warning("no comparison with the ground truth: %s", reason)
        return None


def _ate(result: EvaluationResult) -> dict[str, float]:
    ate = {
        "sim3_rmse": result.ate_sim3.rmse,
        "se3_rmse": result.ate_se3.rmse,
        "scale": result.scale,
        "path_length": result.path_length,
    }
    if result.rotation is not None:
        ate["rotation_rmse_deg"] = result.rotation.rmse
    return ate


def _report(
    slam: Slam,
    source: ImageSource,
    notes: RunNotes,
    records: tuple[FrameRecord, ...],
    graph: Graph,
) -> dict[str, Any]:
    states = [r.state for r in records]
    fx = slam.graph.intrinsics[0] * source.camera.width / slam.predictor.grid.width
    return {
        "source": str(source.path),
        "format": source.format,
        "calibration": source.calibration_source,
        "frames": len(source.times),
        "processed": len(records),
        "weak": sum(s is TrackState.WEAK for s in states),
        "lost": sum(s is TrackState.LOST for s in states),
        "damaged": list(source.skipped),
        "weak_spans": _spans(records, (TrackState.WEAK, TrackState.PENDING)),
        "lost_spans": _spans(records, (TrackState.LOST,)),
        "keyframes": len(graph),
        "edges": len(graph.edges()),
        "focal": None
        if source.calibrated
        else {"pixels": fx, "sigma_pixels": _finite(fx * slam.backend.focal_sigma)},
        "frames_per_second": {
            "loop": len(records) / max(notes.loop_seconds, 1e-9),
            "with_final_adjustment": len(records) / max(notes.total_seconds, 1e-9),
        },
        "stages": slam.timings.summary(),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "versions": {
            "slam": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "numpy": np.__version__,
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
        },
        "frame_times": [float(t) for t in source.times],
        "weak_times": [r.time for r in records if r.state not in SOLVED],
        "frame_list": [{"index": r.index, "time": r.time, "state": r.state.value} for r in records],
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _spans(
    records: tuple[FrameRecord, ...], states: tuple[TrackState, ...]
) -> list[dict[str, float]]:
    """Runs of frames in one of the given states."""
    spans: list[dict[str, float]] = []
    open_span = False
    for record in records:
        if record.state not in states:
            open_span = False
            continue
        if not open_span:
            spans.append({"from": record.time, "to": record.time, "frames": 0})
            open_span = True
        spans[-1]["to"] = record.time
        spans[-1]["frames"] += 1
    return spans
