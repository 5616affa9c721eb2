"""Cameras that are carried off: how often, and how soon, they are found again.

`python -m tests.kidnap SOURCE [section.key=value ...]`, of a folder with a true path, or `sample`.
The recording jumps back to a place seen before (`back`), or over a stretch to a place that may or
may not have been seen, and goes on from there on foot (`away`); 3 s pass each time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch

from slam.config import Config, load_config
from slam.evaluation import evaluate
from slam.frame import SOLVED, Image, Step
from slam.run import open_configured
from slam.sources import Source
from slam.system import Slam
from slam.trajectory import Trajectory
from tests.sequences import SAMPLE

GAP = 3.0  # s that pass at each jump
JUMPS = 3  # of each kind
BEFORE = 0.35  # share of the recording that is seen before the camera is carried off


@dataclass(frozen=True, slots=True)
class Kidnap:
    """A recording with one jump."""

    kind: str  # "back": to a place seen before; "away": over a stretch, on foot from there
    places: list[int]  # of the images, in the source's selection
    jump: int  # which of them is the first after it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it."""

    kidnap: Kidnap
    waited: int  # frames from the jump to the first with a pose; -1 = none had one
    waited_ms: float  # that the program worked on them
    rejoined: int  # frames from the jump to the first posed in the first map; -1 = none was
    recall: float  # share of the frames after the jump that are posed in the joined map, in the end
    submaps: int  # in the end
    error: float  # m, ATE of all that is posed in the map


def kidnaps(count: int, seed: int = 0) -> Iterator[Kidnap]:
    """Jumps of both kinds through a recording of so many images."""
    rng = np.random.default_rng(seed)
    for _ in range(JUMPS):
        leave = int(count * rng.uniform(BEFORE, 0.6))
        there = int(leave * rng.uniform(0.1, 0.6))
        rest = min(leave - there, count // 5)
        yield Kidnap("back", [*range(leave), *range(there, there + rest)], leave)
    for _ in range(JUMPS):
        leave = int(count * rng.uniform(BEFORE / 2, BEFORE))
        there = int(count * rng.uniform(0.5, 0.7))
        yield Kidnap("away", [*range(leave), *range(there, count)], leave)


def images(source: Source, kidnap: Kidnap) -> Iterator[Image]:
    """The recording as if it had been made so."""
    pace = float(np.median(np.diff(source.seconds)))
    for place, image in enumerate(source.images(kidnap.places)):
        seconds = place * pace + (GAP if place >= kidnap.jump else 0.0)
        yield replace(image, index=place, time=seconds, seconds=seconds)


def outcome(source: Source, config: Config, kidnap: Kidnap) -> Outcome:
    """Runs one."""
    steps: list[Step] = []
    spent: list[float] = []
    joined: list[bool] = []  # whether the frame's keyframe was of the first map when it was posed
    with closing(Slam(source.camera, config, calibrated=source.calibrated)) as slam:
        for image in images(source, kidnap):
            start = time.process_time()
            steps.append(slam.feed(image))
            spent.append(1e3 * (time.process_time() - start))
            joined.append(steps[-1].submap == 0)
        slam.finish()
        after = [s.record.state in SOLVED for s in steps[kidnap.jump :]]
        back = [a and j for a, j in zip(after, joined[kidnap.jump :], strict=True)]
        waited = first(after)
        of = slam.graph.submaps.of
        posed = [r for r in slam.graph.records() if r.state in SOLVED and of(r.keyframe) == 0]
        poses = torch.stack([slam.graph.T_WC(r) for r in posed]).numpy()
        late = sum(r.index >= kidnap.jump for r in posed)
        return Outcome(
            kidnap,
            waited,
            sum(spent[kidnap.jump : kidnap.jump + waited + 1]) if waited >= 0 else float("nan"),
            first(back),
            late / len(after),
            len(slam.graph.submaps.every),
            error(source, kidnap, [r.index for r in posed], poses),
        )


def first(flags: Sequence[bool]) -> int:
    """Place of the first that is set; -1 = none is."""
    return next((n for n, flag in enumerate(flags) if flag), -1)


def error(source: Source, kidnap: Kidnap, index: list[int], poses: np.ndarray) -> float:
    """ATE, m, of frames against the path of the recording: an image may come twice."""
    assert source.ground_truth is not None
    truth = source.ground_truth
    times = source.times[[kidnap.places[n] for n in index]]
    near = np.abs(truth.times[:, None] - times).argmin(0)
    frames = np.arange(len(times), dtype=float)
    return evaluate(Trajectory(frames, poses), Trajectory(frames, truth.poses[near])).ate_sim3.rmse


def main(path: str, *overrides: str) -> None:
    """Prints one line a kidnap, and the sums of each kind."""
    folder = SAMPLE if path == "sample" else path
    config = load_config(None, [f"source.path={folder}", *overrides])
    source = open_configured(config)
    print("kind    left  frames     ms  in map  recall  maps      ATE")
    found: list[Outcome] = []
    for kidnap in kidnaps(len(source)):
        one = outcome(source, config, kidnap)
        found.append(one)
        print(
            f"{kidnap.kind:6}{kidnap.jump:6}{one.waited:8}{one.waited_ms:7.0f}{one.rejoined:8}"
            f"{one.recall:8.2f}{one.submaps:6}{one.error:9.4f}",
            flush=True,
        )
    for kind in ("back", "away"):
        print(summary(kind, [o for o in found if o.kidnap.kind == kind]))


def summary(kind: str, found: Sequence[Outcome]) -> str:
    """Of all jumps of a kind."""
    again = [o for o in found if o.rejoined >= 0]
    waits = [o.rejoined for o in again] or [-1]
    ms = [o.waited_ms for o in found if o.waited >= 0] or [float("nan")]
    recall = float(np.mean([o.recall for o in found]))
    return (
        f"{kind}: {len(again)} of {len(found)} back in the map while it ran, after "
        f"{np.median(waits):.0f} frames (at most {max(waits)}); first pose after "
        f"{np.median(ms):.0f} ms; recall {recall:.2f}; "
        f"{sum(o.submaps == 1 for o in found)} end as one map"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
