"""A run that can be gone on with after it was killed: its journal, and what a folder holds of it.

The journal holds every change of the map as it was made. At the end of a step that made a keyframe
the run is between two images, and a commit goes to the disk; no keyframe is made before the last
commit is there. Going on means: the changes up to the last commit, done to an empty map; then the
images after it. Offline that gives what the run would have given.

A journal that cannot be written (the disk is full, or gone) stops the run unless
`run.on_journal_error` says `continue`: everything that there is by then is adjusted and saved as
far as that can be done, and once there is room again `slam resume` goes on from the last commit.
Whoever films what cannot be filmed again would rather have the map without a journal than stop, and
says so before. The map in memory is whole either way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from slam.changes import Change
from slam.config import Config, to_yaml
from slam.frame import SOLVED, Step
from slam.graph import Graph
from slam.journal import Journal
from slam.journal_records import (
    Beginning,
    Commit,
    Encode,
    Ended,
    Published,
    apply,
    decode,
    encode,
    to_commit,
)
from slam.record_file import RecordReader, RecordWriter
from slam.settings import from_yaml
from slam.standing import Standing

log = logging.getLogger(__name__)

JOURNAL = "session.journal"
REPORT = "report.json"  # the last file but one that a run writes


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal holds."""

    config: str  # YAML; empty = the run was cut short before it said that much
    commit: Commit | None  # the last one with a map; None = there is none
    end: int  # bytes that count
    ended: bool  # whether the run was finished


@dataclass(frozen=True, slots=True)
class Found:
    """An unfinished session."""

    path: Path  # its journal
    config: Config  # as the run was given
    commit: Commit | None  # the last one with a map; None = there is none, begin anew
    end: int  # bytes of the journal that count


class Session:
    """Keeps a run's journal. Without one (`None`, or after it failed) it does nothing."""

    def __init__(
        self,
        journal: Journal | None,
        path: Path,
        on_error: Literal["stop", "continue"],
        seconds: float = 0.0,
    ) -> None:
        """Args: seconds: wall time that the run took before."""
        self.path = path
        self.damaged: Sequence[str] = ()  # images that could not be read so far
        self._journal = journal
        self._on_error = on_error
        self._since = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        """Wall time of the run, s, with what it took before it was resumed."""
        return time.perf_counter() - self._since

    def changed(self, change: Change) -> None:
        """Observer of the graph, from any thread; `end` may come in between."""
        journal = self._journal
        if journal is not None:
            journal.put(change)

    def before_keyframe(self) -> None:
        """Waits for the last commit, so that no more than one keyframe can be lost."""
        if self._journal is not None:
            try:
                self._journal.wait()
            except OSError as error:
                self._give_up(error)

    def published(self, step: Step) -> None:
        """What became of a frame."""
        if self._journal is not None:
            solved = step.record.state in SOLVED
            pose = step.T_WC if solved else None
            in_map = step.record.keyframe >= 0
            self._journal.put(Published(step.record.time, pose, in_map, step.submap))

    def commit(self, standing: Standing, keyframes: int) -> None:
        """Says that the run can be gone on with from here."""
        if self._journal is not None:
            self._journal.put(Commit(standing, keyframes, self.seconds, tuple(self.damaged)))

    def end(self) -> None:
        """The images are through: what follows is computed from the map again."""
        journal, self._journal = self._journal, None
        if journal is not None:
            try:
                journal.close()
            except OSError as error:  # the run needs it no more unless it dies now
                log.warning("%s: the end of the journal is missing: %s", self.path, _why(error))

    def finished(self, keep: bool) -> None:
        """All outputs are saved: the journal has served. Args: keep: whether it stays."""
        if not self.path.is_file():
            return
        try:
            self._close(keep)
        except OSError as error:  # what was asked for is there
            log.warning("%s: not %s: %s", self.path, "closed" if keep else "removed", _why(error))

    def _close(self, keep: bool) -> None:
        if not keep:
            self.path.unlink()
            return
        writer = RecordWriter(self.path, scan(self.path).end)
        writer.write(*encode(Ended()))
        writer.sync()
        writer.close()

    def _give_up(self, error: OSError) -> None:
        if self._journal is not None:
            self._journal.abandon()
            self._journal = None
        if self._on_error == "stop":
            raise OSError(
                f"{self.path}: wanted to keep the session there, but {_why(error)}; make room and "
                f"`slam resume {self.path.parent}`, or run with run.on_journal_error=continue"
            ) from error
        log.warning(
            "%s: %s; the run goes on, but could not be resumed beyond here", self.path, _why(error)
        )


def begin(folder: Path, config: Config) -> Session:
    """A new run's session in its output folder.

    Raises ValueError where the folder holds one that can still be resumed, OSError where the
    journal cannot be made and the settings do not say to go on without.
    """
    path = folder / JOURNAL
    if path.is_file() and (contents := scan(path)).commit and not contents.ended:
        raise ValueError(
            f"{folder}: wanted a folder for a new run, but it holds one that was not finished; "
            f"go on with it (slam resume {folder}), remove {path}, or name another folder"
        )
    session = Session(None, path, config.run.on_journal_error)
    if not config.run.journal:
        return session
    try:
        writer = RecordWriter(path)
        writer.write(*encode(Beginning(to_yaml(_everywhere(config)))))
        writer.sync()
    except OSError as error:
        session._give_up(error)
        return session
    return Session(Journal(writer), path, config.run.on_journal_error)


def find(folder: Path) -> Found:
    """The session that a folder holds.

    Raises FileNotFoundError or ValueError, in one line, where there is none to resume.
    """
    path = folder / JOURNAL
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: wanted the output folder of a run, got none")
    if not path.is_file():
        if (folder / REPORT).is_file():
            raise ValueError(f"{folder}: this run is finished: there is nothing to resume")
        raise ValueError(f"{folder}: wanted the folder of a run cut short, got no {JOURNAL} in it")
    contents = scan(path)
    if contents.ended:
        raise ValueError(f"{folder}: this run is finished: there is nothing to resume")
    if not contents.config:
        raise ValueError(f"{path}: the run was cut short before it began; start it anew: slam run")
    config = from_yaml(Config(), contents.config, str(path))
    return Found(path, config, contents.commit, contents.end)


def resumed(found: Found) -> Session:
    """The session, its journal cut off after the last commit and open for more."""
    settings, commit = found.config.run, found.commit
    journal = Journal(RecordWriter(found.path, found.end))
    seconds = 0.0 if commit is None else commit.seconds
    return Session(journal, found.path, settings.on_journal_error, seconds)


def replay(
    found: Found, graph: Graph, features: Encode, publish: Callable[[Published], None]
) -> None:
    """Does to an empty graph all that was done up to the last commit.

    Args:
        features: what makes features of a keyframe's working image.
        publish: called with what was said of each frame.
    """
    for record in RecordReader(found.path):
        if record.end > found.end:
            return
        match decode(record.kind, record.values, features):
            case Published() as said:
                publish(said)
            case Beginning() | Commit() | Ended():
                pass
            case change:
                apply(change, graph)


def scan(path: Path) -> Contents:
    """What a journal holds. Raises ValueError for a file that is none, or damaged."""
    reader, config, commit, start, end, ended = RecordReader(path), "", None, 0, 0, False
    for record in reader:
        if record.kind == "beginning":
            config = record.values["config"].tobytes().decode()
            start = end = record.end
        elif record.kind == "commit":
            commit, end = to_commit(record.values), record.end
            if commit.keyframes == 0:  # a start was discarded: the images say the same again
                commit, end = None, start
        ended = record.kind == "ended"
    if reader.dropped:
        log.info("%s: the last %d bytes were not written whole", path, reader.dropped)
    return Contents(config, commit, end, ended)


def _everywhere(config: Config) -> Config:
    """The configuration with files named so that they are found from any folder."""

    def absolute(name: str) -> str:
        return str(Path(name).absolute()) if name and Path(name).exists() else name

    source = replace(config.source, path=absolute(config.source.path))
    if source.calibration not in ("auto", "none"):
        source = replace(source, calibration=absolute(source.calibration))
    return replace(
        config,
        source=source,
        run=replace(config.run, map=absolute(config.run.map)),
        flow=replace(config.flow, weights=absolute(config.flow.weights)),
        pointmap=replace(config.pointmap, checkpoint=absolute(config.pointmap.checkpoint)),
        retrieval=replace(
            config.retrieval,
            head=absolute(config.retrieval.head),
            codebook=absolute(config.retrieval.codebook),
        ),
    )


def _why(error: OSError) -> str:
    return error.strerror or str(error)
