"""Poses of a source's images in a map that stays as it is: `slam localize`."""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slam.config import Config, to_yaml
from slam.frame import SOLVED, FrameRecord, TrackState, source_of
from slam.output_files import Files, output_folder
from slam.playing import playing
from slam.run import INTERRUPTED, Interrupt
from slam.saved_map import SavedMap, expect_fitting, load_map
from slam.sources import Source
from slam.sources.configured import open_configured
from slam.sources.realtime import RealTime
from slam.system import Slam
from slam.trajectory import Trajectory, write_atomically, write_tum

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Localization:
    """What was found."""

    folder: Path  # where it was written
    trajectory: Trajectory  # T_WC in the map's world, right-handed, of the frames that have one
    report: dict[str, Any]  # as report.json
    exit_code: int  # 0 done, 130 interrupted

    def summary(self) -> str:
        """A few lines for a person."""
        report, first = self.report, self.report["first_pose"]
        states = ", ".join(f"{count} {state}" for state, count in report["states"].items())
        when = "no frame was found in the map"
        if first is not None:
            when = f"the first one found after {first['frames']} frames, {first['seconds']:.2f} s"
        return "\n".join(
            [
                f"{report['localised']} of {report['frames']} frames localised ({states}); {when}",
                f"written to {self.folder}",
            ]
        )


def localize(config: Config) -> Localization:
    """Seeks the images of the configured source in the map `config.run.map`; nothing of it changes.

    What the images show besides is mapped on the way, tied to the map, so that frames that look
    beyond it have poses too; it is thrown away. Frames from before the first one that was found
    are tried again at the end. Writes `trajectory.txt` (frames that were found, no others),
    `report.json` and `config.yaml`.

    Raises ValueError where the map and the source do not agree, and as `run`.
    """
    source, saved = open_configured(config), load_map(config.run.map)
    expect_fitting(saved, source)
    with closing(Slam(source.camera, config, calibrated=source.calibrated)) as slam:
        slam.enter(saved, frozen=True)
        files = Files(output_folder(config, f"{source.name}-localized"))
        found = _Seen(slam, source)
        code = found.all_images()
        return _save(files, saved, source, config, found, code)


class _Seen:
    """What is noted of the images on their way through the system."""

    def __init__(self, slam: Slam, source: Source) -> None:
        self.slam, self.source = slam, source
        self.first: dict[str, float] | None = None  # frames, and s of the source, to the first pose
        self.taken: list[float] = []  # s, of the images

    def all_images(self) -> int:
        """Feeds them, adjusts what they added; returns the exit code."""
        interrupt = Interrupt(self.slam)
        images = self.source.images()
        live = RealTime(images) if self.slam.config.run.realtime else None
        with interrupt.watching():
            with playing(live or images, self.source.total) as (chosen, bar):
                for image in chosen:
                    if interrupt.ends_loop:
                        break
                    step = self.slam.feed(image)
                    self._note(step.record)
                    bar.update()
                    bar.set_postfix_str(step.record.state.value)
            interrupt.finishing = True
            self.slam.finish()
        return INTERRUPTED if interrupt.count else 0

    def _note(self, record: FrameRecord) -> None:
        self.taken.append(record.seconds)
        if self.first is None and record.state in SOLVED:
            seconds = record.seconds - self.taken[0]
            self.first = {"frames": len(self.taken) - 1, "seconds": seconds}

    def records(self) -> list[FrameRecord]:
        """Of the source's frames."""
        return [r for r in self.slam.graph.records() if source_of(r.index) == 0]


def _save(
    files: Files, saved: SavedMap, source: Source, config: Config, found: _Seen, code: int
) -> Localization:
    records = found.records()
    solved = [r for r in records if r.state in SOLVED]
    poses = np.array([found.slam.graph.T_WC(r).numpy() for r in solved]).reshape(-1, 7)
    trajectory = Trajectory(np.array([r.time for r in solved], float), poses)
    report = {
        "map": config.run.map,
        "source": str(source.path),
        "frames": len(records),
        "localised": len(solved),
        "share": len(solved) / max(len(records), 1),
        "first_pose": found.first,
        "states": dict(Counter(r.state.value for r in records)),
        "relocalisations": sum(r.state is TrackState.RELOCALISED for r in records),
        "damaged": list(source.skipped),
        "frame_list": [{"index": r.index, "time": r.time, "state": r.state.value} for r in records],
    }
    with files.writing("trajectory.txt") as path:
        write_tum(path, saved.in_source_convention(trajectory))
    with files.writing("config.yaml") as path:
        write_atomically(path, to_yaml(config).encode())
    with files.writing("report.json") as path:
        write_atomically(path, json.dumps(report, indent=1).encode())
    if files.unwritten:
        raise OSError(files.complaint())
    return Localization(files.folder, trajectory, report, code)
