"""The journal: the map that it gives back is the one that was, and a run goes on from it."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pointmap_runs
import pytest
import torch
from graph_state import State, differences, state_of
from sequences import cut_sample

from slam.changes import Adopted, DepthChanged, RecordSet
from slam.config import Config
from slam.frame import (
    SOLVED,
    FrameRecord,
    FusedPointmap,
    InverseDepth,
    Keyframe,
    TrackState,
)
from slam.graph import Graph
from slam.initialization import identity
from slam.journal import Journal
from slam.journal_records import Commit, Published, apply, decode
from slam.outputs import RunNotes
from slam.record_file import RecordReader, RecordWriter
from slam.run import Rest, _restore, _take_up
from slam.session import JOURNAL, Session, begin, find, replay, resumed, scan
from slam.sources import Source, open_source
from slam.standing import Standing
from slam.system import Slam


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    frames = [40] * 3 + list(range(40, 104, 2))
    return open_source(cut_sample(tmp_path_factory.mktemp("sequence") / "cut", frames))


def small(source: Source, **run: object) -> Config:
    """Small images, so that a run takes a second; keyframes before the start is over."""
    config = Config()
    return replace(
        config,
        source=replace(config.source, path=str(source.path)),
        flow=replace(config.flow, long_side=160),
        keyframes=replace(config.keyframes, flow=0.05),
        run=replace(config.run, **run),  # type: ignore[arg-type]
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """A run, its journal, and what the map was at each commit."""

    folder: Path
    end: State  # when the images were through
    commits: list[State]
    said: list[Published]


class Watched(Session):
    """Notes the map at each commit; called by the frontend, with no backend at work."""

    graph: Graph
    states: list[State]

    def commit(self, standing: Standing, keyframes: int) -> None:
        super().commit(standing, keyframes)
        self.states.append(state_of(self.graph))


def kept(folder: Path, config: Config, slam: Slam, images: Iterator) -> Kept:
    session = begin(folder, config)
    session.__class__ = Watched
    assert isinstance(session, Watched)
    session.graph, session.states, said = slam.graph, [], []
    slam.keep(session)
    for image in images:
        step = slam.feed(image)
        pose = step.T_WC if step.record.state in SOLVED else None
        said.append(Published(step.record.time, pose, step.record.keyframe >= 0))
    slam.end_session()
    return Kept(folder, state_of(slam.graph), session.states, said)


@pytest.fixture(scope="module")
def flow_run(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A run with a start thrown away, and a backend that is done before each commit."""
    config = small(source, ahead=0)
    config = replace(config, start=replace(config.start, trial_cost=0.0, trials=2))
    with closing(Slam(source.camera, config)) as slam:
        return kept(tmp_path_factory.mktemp("flow"), config, slam, source.images())


def empty(config: Config, source: Source) -> Slam:
    return Slam(source.camera, config, calibrated=source.calibrated)


# --- the map ----------------------------------------------------------------------------------


def test_a_replayed_map_is_the_one_that_was_to_the_bit(flow_run: Kept, source: Source) -> None:
    found, said = find(flow_run.folder), []
    assert found.commit is not None and found.commit.keyframes == len(flow_run.end.keyframes) > 4
    assert found.commit.standing.frontend.trials == 2
    with closing(empty(found.config, source)) as slam:
        replay(found, slam.graph, slam.predictor.encode, said.append)
        assert differences(flow_run.end, state_of(slam.graph)) == []
    assert differences(flow_run.said, said) == []


def test_a_replayed_pointmap_map_is_the_one_that_was(tmp_path: Path) -> None:
    config = pointmap_runs.configured(pointmap_runs.NOISE)
    images = [pointmap_runs.image(n) for n in pointmap_runs.FRAMES]
    with pointmap_runs.started(config, focal_factor=1.2) as slam:
        before = kept(tmp_path, config, slam, iter(images))
    found = find(tmp_path)
    with pointmap_runs.started(config, focal_factor=1.2) as slam:
        replay(found, slam.graph, slam.predictor.encode, lambda _: None)
        assert len(before.end.keyframes) > 4 and before.end.keyframes[0].pointmap is not None
        after = state_of(slam.graph)
    for state in (before.end, after):  # tokens of the simulated network have no equality
        state.keyframes[:] = [without_tokens(k) for k in state.keyframes]
    assert differences(before.end, after) == []


def without_tokens(keyframe: Keyframe) -> Keyframe:
    features = replace(keyframe.frame.features, tokens=None)  # type: ignore[call-arg]
    return replace(keyframe, frame=replace(keyframe.frame, features=features))


def test_every_commit_is_the_map_at_that_moment(flow_run: Kept, source: Source) -> None:
    found, commits = find(flow_run.folder), iter(flow_run.commits)
    with closing(empty(found.config, source)) as slam:
        graph = slam.graph
        for record in RecordReader(found.path):
            entry = decode(record.kind, record.values, slam.predictor.encode)
            if record.kind == "commit":
                wanted, got = next(commits), state_of(graph)
                assert differences(wanted, got) == []
            elif record.kind not in ("beginning", "published"):
                apply(entry, graph)  # type: ignore[arg-type]
    assert next(commits, None) is None


# --- going on ---------------------------------------------------------------------------------


def test_a_run_resumed_at_any_commit_ends_as_if_it_had_not_been(
    source: Source, tmp_path: Path
) -> None:
    """To the bit, offline: the state of the frontend and backend is all there."""
    config = small(source)
    with closing(empty(config, source)) as slam:
        usual = kept(tmp_path, config, slam, source.images())
    data = (tmp_path / JOURNAL).read_bytes()
    ends = [r.end for r in RecordReader(tmp_path / JOURNAL) if r.kind == "commit"]
    assert len(ends) == len(usual.commits) > 6
    for end in (ends[0], ends[4]):
        (tmp_path / JOURNAL).write_bytes(data[: end + 33])
        found, notes = find(tmp_path), RunNotes()
        with closing(empty(config, source)) as slam:
            session = resumed(found)
            rest = _restore(slam, source, found, notes)
            slam.keep(session)
            assert rest.standing is not None
            _take_up(slam, source, rest.standing)
            for image in source.images(range(rest.first, len(source))):
                notes.note(slam.feed(image))
            slam._catch_up()
            slam.end_session()
            resumed_state = state_of(slam.graph)
        found = find(tmp_path)  # and its journal tells the same
        with closing(empty(config, source)) as slam:
            replay(found, slam.graph, slam.predictor.encode, lambda _: None)
            assert differences(resumed_state, state_of(slam.graph)) == []
        causal = [said for said in usual.said if said.T_WC is not None]
        assert [time for time, *_ in notes.causal] == [said.time for said in causal]
        for said, (_, pose, _) in zip(causal, notes.causal, strict=True):
            assert np.array_equal(said.T_WC, pose), said.time
        assert [r.state for r in resumed_state.records] == [r.state for r in usual.end.records]


def test_a_run_on_pointmaps_goes_on_with_matches_found_again(tmp_path: Path) -> None:
    config = pointmap_runs.configured(pointmap_runs.NOISE)
    usual = pointmap_runs.run(config)
    frames = pointmap_runs.FRAMES
    with pointmap_runs.started(config) as slam:
        kept(tmp_path, config, slam, map(pointmap_runs.image, frames[:12]))
    found = find(tmp_path)
    assert found.commit is not None and found.commit.keyframes > 3
    with pointmap_runs.started(config) as slam:
        replay(found, slam.graph, slam.predictor.encode, lambda _: None)
        slam.take_up(found.commit.standing, [], [])
        for index in frames[12:]:
            slam.feed(pointmap_runs.image(index))
        slam.finish()
        assert len(slam.graph) == len(usual.slam.graph)
        poses = [slam.graph.T_WC(r) for r in slam.graph.records()]
    assert pointmap_runs.path_error(poses, frames) < 1.2 * usual.path_error


def test_early_and_lost_images_are_read_again(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(source)
    with closing(empty(config, source)) as slam:
        kept(tmp_path, config, slam, source.images(range(25)))
        slam.finish()
        usual = [slam.graph.T_WC(r) for r in slam.graph.records()]
        states = [r.state for r in slam.graph.records()]
    found = find(tmp_path)
    with closing(empty(config, source)) as slam:
        rest = _restore(slam, source, found, RunNotes())
        assert rest == Rest(25, 0, found.commit.standing if found.commit else None)
        assert rest.standing is not None
        pending = [r.index for r in slam.graph.records() if r.state is TrackState.PENDING]
        assert len(pending) > 3
        _take_up(slam, source, rest.standing)
        assert [f.index for f in slam.frontend._early] == pending
        slam.finish()
        again = [slam.graph.T_WC(r) for r in slam.graph.records()]
        assert [r.state for r in slam.graph.records()] == states
    for one, other in zip(usual, again, strict=True):
        assert float((one - other).abs().max()) < 0.02  # pairs were all measured again


# --- the writer -------------------------------------------------------------------------------


class Disk(RecordWriter):
    """A file that the test lets through, or not."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate = threading.Event()
        self.gate.set()
        self.full = False

    def write(self, kind: str, values: Mapping[str, np.ndarray]) -> int:
        self.gate.wait(20)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(kind, values)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / JOURNAL)


def record_of(index: int) -> RecordSet:
    return RecordSet(FrameRecord(index, 0.0, 0.0, TrackState.LOST, -1, identity(), None))


def commit_of(flow_run: Kept) -> Commit:
    commit = find(flow_run.folder).commit
    assert commit is not None
    return commit


def test_nothing_waits_for_the_disk_but_the_next_keyframe(disk: Disk, flow_run: Kept) -> None:
    journal, waited = Journal(disk), threading.Event()
    disk.gate.clear()
    for index in range(100):
        journal.put(record_of(index))
    journal.put(commit_of(flow_run))
    waiting = threading.Thread(target=lambda: (journal.wait(), waited.set()))
    waiting.start()
    assert not waited.wait(0.2)
    disk.gate.set()
    waiting.join(10)
    kinds = [r.kind for r in RecordReader(disk.path)]  # it is not closed yet
    assert kinds == ["record"] * 100 + ["commit"]
    journal.close()


def test_no_keyframe_is_made_before_the_last_one_is_on_the_disk(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, sync, there = Graph.add_keyframe, RecordWriter.sync, []

    def adding(graph: Graph, keyframe: Keyframe, submap: int = 0) -> int:
        kinds = [r.kind for r in RecordReader(tmp_path / JOURNAL)]
        there.append(kinds.count("commit"))
        return add(graph, keyframe, submap)

    def slow(writer: RecordWriter) -> None:
        time.sleep(0.2)  # longer than it takes to come to the next keyframe
        sync(writer)

    monkeypatch.setattr(Graph, "add_keyframe", adding)
    monkeypatch.setattr(RecordWriter, "sync", slow)
    config = small(source)
    with closing(empty(config, source)) as slam:
        kept(tmp_path, config, slam, source.images(range(22)))
    assert len(there) > 4
    assert there == list(range(len(there)))


def test_a_keyframes_depths_are_written_once_between_adjustments(disk: Disk) -> None:
    journal = Journal(disk)
    points = FusedPointmap(torch.rand(2, 2, 3), torch.rand(2, 2), 7)
    depths = [InverseDepth(torch.rand(4), torch.rand(4)) for _ in range(6)]
    for n, depth in enumerate(depths):
        journal.put(DepthChanged(n % 2, depth, points if n < 2 else None))
        journal.put(record_of(n))
    journal.put(Adopted({}, {}, None, None, {}))
    journal.put(DepthChanged(0, depths[0], None))
    journal.put(Adopted({}, {}, None, None, {}))
    journal.close()
    records = [r for r in RecordReader(disk.path) if r.kind != "record"]
    assert [r.kind for r in records] == ["depth", "depth", "adopted", "depth", "adopted"]
    assert records[0].values["value"].tobytes() == depths[4].value.numpy().tobytes()
    assert ["X_C" in r.values for r in records] == [True, True, False, False, False]


def test_a_full_disk_is_said_where_it_is_waited_for(disk: Disk, flow_run: Kept) -> None:
    before = set(threading.enumerate())
    journal = Journal(disk)
    disk.full = True
    journal.put(commit_of(flow_run))
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            journal.wait()
    journal.put(record_of(0))
    with pytest.raises(OSError, match="No space left"):
        journal.close()
    assert set(threading.enumerate()) == before


def test_a_disk_that_answers_no_more_is_given_up(
    disk: Disk, flow_run: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slam.journal.PATIENCE", 0.1)
    journal = Journal(disk)
    disk.gate.clear()
    journal.put(commit_of(flow_run))
    with pytest.raises(TimeoutError, match=JOURNAL):
        journal.wait()
    disk.gate.set()


# --- damage -----------------------------------------------------------------------------------


def test_a_journal_cut_at_any_byte_of_its_last_record_loses_that_alone(
    source: Source, tmp_path: Path
) -> None:
    config = small(source)
    with closing(empty(config, source)) as slam:
        kept(tmp_path, config, slam, source.images(range(16)))
    path = tmp_path / JOURNAL
    records = [(r.kind, r.end) for r in RecordReader(path)]
    commits = [n for n, (kind, _) in enumerate(records) if kind == "commit"]
    last = commits[-2]  # of a keyframe; the one after it says that the images are through
    data = path.read_bytes()[: records[last][1]]
    before, whole = records[commits[-3]][1], path.stat().st_size
    assert before < len(data) < whole and len(commits) > 2
    for size in range(records[last - 1][1], len(data) + 1):
        path.write_bytes(data[:size])
        found = scan(path)
        assert found.commit is not None and not found.ended
        assert found.end == (before if size < len(data) else len(data)), size
        assert found.commit.keyframes == len(commits) - (2 if size < len(data) else 1)
