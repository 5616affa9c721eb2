"""Lost, found, begun anew: kidnapped cameras, submaps that are joined, others that are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from graph_state import differences, state_of
from sequences import OUTPUTS, cut_sample
from test_loops import keyframe

from slam.changes import Change
from slam.config import Config, load_config
from slam.evaluation import evaluate
from slam.frame import SOLVED, Correspondence, FrameRecord, Image, Step, TrackState
from slam.graph import Graph
from slam.initialization import identity
from slam.journal_records import Commit, Published, apply, decode, encode, to_commit
from slam.record_file import RecordReader
from slam.refinement import fill_gaps
from slam.run import resume, run
from slam.saved_map import load_map
from slam.session import JOURNAL
from slam.sources import open_source
from slam.submaps import Submaps
from slam.system import Slam
from slam.trajectory import Trajectory, read_trajectory

SIZE = 208  # px
NORTH = range(0, 60, 2)  # of the sample: one wall of its room
EAST = range(126, 180)  # another one, no part of which is in those images
BACK = [*range(180, 300, 2), *range(1, 50, 2)]  # from there back to the first
GAP = 3.0  # s, while the camera is carried off
SHORT_TRIAL = "start.trial_keyframes=3"


def kidnapped(folder: Path, *parts: Sequence[int]) -> Path:
    """A sequence of parts of the sample, with GAP between them."""
    frames = [frame for part in parts for frame in part]
    ends = np.cumsum([len(part) for part in parts])
    times = [100 + n / 30 + GAP * int((ends <= n).sum()) for n in range(len(frames))]
    return cut_sample(folder, frames, times=times)


def settings(sequence: Path, *more: str) -> Config:
    chosen = [f"source.path={sequence}", f"flow.long_side={SIZE}", SHORT_TRIAL, *more]
    return load_config(None, chosen)


@dataclass(frozen=True, slots=True)
class Run:
    """A sequence, what became of its frames at once, and what the run left."""

    sequence: Path
    steps: list[Step]
    joined_at: int  # index of the first frame that followed a join; -1 = none did
    apart: int  # submaps at most
    folder: Path

    @property
    def report(self) -> dict:
        return json.loads((self.folder / "report.json").read_text())

    def error(self, name: str) -> float:
        """ATE, m, of a trajectory's file, without the frames that have no pose of their own."""
        truth, path = read_trajectory(self.sequence / "groundtruth.txt"), self.path(name)
        guessed = self.report["weak_times"]
        return evaluate(path.select(~np.isin(path.times, guessed)), truth).ate_sim3.rmse

    def path(self, name: str) -> Trajectory:
        return read_trajectory(self.folder / name)


Take = Callable[[Slam, Image], Step]


class Watching:
    """Notes the steps of runs, and how many submaps there are after each."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.submaps: list[int] = []

    def feed(self, slam: Slam, image: Image, take: Take = Slam.feed) -> Step:
        step = take(slam, image)
        self.steps.append(step)
        self.submaps.append(len(slam.graph.submaps.every))
        return step


def ran(folder: Path, sequence: Path, *more: str) -> Run:
    watch = Watching()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Slam, "feed", lambda slam, image: watch.feed(slam, image))
        run(settings(sequence, f"run.out={folder}", "run.keep_journal=true", *more))
    fewer = np.flatnonzero(np.diff(watch.submaps) < 0) + 1
    first = int(fewer[0]) if len(fewer) else -1
    return Run(sequence, watch.steps, first, max(watch.submaps), folder)


@pytest.fixture(scope="module")
def returned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Carried off to a place not seen before, and back from there on foot."""
    folder = tmp_path_factory.mktemp("returned")
    return ran(folder / "out", kidnapped(folder / "cut", NORTH, [*EAST, *BACK]))


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Carried off for good."""
    folder = tmp_path_factory.mktemp("away")
    return ran(folder / "out", kidnapped(folder / "cut", NORTH, EAST))


def test_carried_back_to_a_seen_place_it_is_found_at_once(tmp_path: Path) -> None:
    sequence = kidnapped(tmp_path / "cut", range(0, 100, 2), range(11, 50, 2))
    found = ran(tmp_path / "out", sequence)
    states = [s.record.state for s in found.steps]
    assert states[50] is TrackState.RELOCALISED
    assert set(states[51:]) == {TrackState.TRACKED}
    assert found.apart == 1 and len(found.report["submaps"]) == 1
    assert found.error("trajectory.txt") < 0.01
    assert {p.name for p in found.folder.iterdir()} == OUTPUTS | {JOURNAL}


def test_in_an_unseen_place_it_begins_anew_and_on_return_all_is_one_map(returned: Run) -> None:
    states = [s.record.state for s in returned.steps]
    first = len(NORTH)
    lost = states[first:].index(TrackState.TRACKED)
    assert 30 <= lost < 45  # a second, and until there is parallax
    assert returned.joined_at > first + lost
    assert set(states[first : first + lost]) == {TrackState.LOST}
    assert set(states[first + lost :]) == {TrackState.TRACKED}
    assert returned.apart == 2
    report = returned.report
    assert len(report["submaps"]) == 1 and report["posed"] > len(states) - lost
    assert returned.error("trajectory.txt") < 0.02  # the path is 6 m long
    assert not list(returned.folder.glob("map-*"))


def test_what_was_published_in_another_world_is_not_in_the_causal_path(returned: Run) -> None:
    assert len({s.submap for s in returned.steps}) == 2
    causal = read_trajectory(returned.folder / "trajectory_causal.txt")
    solved = [s for s in returned.steps if s.record.state in SOLVED and s.T_WC is not None]
    told = [s.record.time for s in solved if s.submap == 0]
    assert np.allclose(causal.times, told)
    assert returned.error("trajectory_causal.txt") < 0.03


@pytest.mark.slow
def test_maps_that_share_nothing_are_saved_side_by_side(away: Run) -> None:
    report = away.report
    sizes = [s["frames"] for s in report["submaps"]]
    assert len(sizes) == 2 and sum(sizes) + report["lost"] == report["processed"]
    assert report["posed"] == sizes[0] == max(sizes)
    for submap in report["submaps"]:
        assert away.error(submap["trajectory"]) < 0.01
        poses = read_trajectory(away.folder / submap["trajectory"])
        assert submap["from"] == pytest.approx(poses.times[0])
        saved = load_map(away.folder / submap["map"])
        assert len(saved.keyframes) == submap["keyframes"]
        assert {k for e in saved.edges for k in e} == set(range(len(saved.keyframes)))
    both = [set(read_trajectory(away.folder / s["trajectory"]).times) for s in report["submaps"]]
    assert not both[0] & both[1]


@pytest.mark.slow
def test_a_frame_lost_between_two_worlds_is_where_the_nearer_one_is(away: Run) -> None:
    graph, (a, b) = Graph((100.0, 100.0, 50.0, 50.0)), (identity(), identity())
    b[0] = 8.0
    for number, T in enumerate((a, b)):
        graph.add_keyframe(keyframe(10 * number, T), number)
    for index, state, number in ((0, "tracked", 0), (3, "lost", 0), (7, "lost", 0),
                                 (10, "tracked", 1)):  # fmt: skip
        graph.set_record(
            FrameRecord(index, index, index / 30, TrackState(state), number, identity(), None)
        )
    assert not graph.twist(3).any()  # and nothing moved from one world to another
    fill_gaps(graph)
    assert [float(graph.T_WC(graph.record(n))[0]) for n in (3, 7)] == [0.0, 8.0]


# --- discarded starts ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_discarded_start_leaves_the_other_submaps_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fed until a start was discarded, the map is as if none had ever been begun."""
    sequence, judged = kidnapped(tmp_path / "cut", NORTH, EAST), Slam._good_start

    def good(slam: Slam, first: int) -> bool | None:
        return judged(slam, first) if first == 0 else False

    monkeypatch.setattr(Slam, "_good_start", good)
    source, states, count = open_source(sequence), [], len(NORTH) + len(EAST)
    for patience in (1.0, 1e6):
        config = settings(sequence, f"relocalization.patience={patience}")
        with closing(Slam(source.camera, config)) as slam:
            seen: list[int] = []
            for image in source.images(range(count)):
                seen.append(slam.feed(image).submap)
                if seen[-1] < max(seen):
                    break
            count = len(seen)
            slam.backend.publish()
            state, known = state_of(slam.graph), slam.backend.edges._measured_with
            frames = {k: sorted(v) for k, v in state.frames_of.items()}
            states.append(replace(state, frames_of=frames))
            assert slam.graph.submaps.names == (0,) * len(slam.graph)
            assert len(slam.backend.places) == len(slam.graph)
            assert max(max(pair) for pair in known) < len(slam.graph)
    assert len(NORTH) + 30 < count < len(NORTH) + len(EAST)  # one was
    assert differences(*states) == []


def test_clearing_from_a_keyframe_on_spares_those_before() -> None:
    graph = Graph((100.0, 100.0, 50.0, 50.0))
    for number in range(4):
        graph.add_keyframe(keyframe(number, identity()), 0 if number < 2 else 2)
        record = FrameRecord(number, number, number, TrackState.TRACKED, number, identity(), None)
        graph.set_record(record)
    match = Correspondence(torch.zeros(1, 2), torch.ones(1))
    graph.set_edges([], {e: match for e in ((0, 1), (1, 0), (2, 3), (1, 2))})
    graph.clear(graph.intrinsics, 2)
    assert len(graph) == 2 and graph.submaps == Submaps((0, 0))
    assert list(graph.edges()) == [(0, 1), (1, 0)] == list(graph.edges_at([1]))
    assert [r.keyframe for r in graph.records()] == [0, 1, -1, -1]


# --- the graph -----------------------------------------------------------------------------------


def test_keyframes_since_follow_their_own_submap() -> None:
    graph = Graph((100.0, 100.0, 50.0, 50.0))
    for number, name in enumerate((0, 1, 1, 0, 1, 5)):
        T = identity()
        T[0] = number
        graph.add_keyframe(keyframe(number, T), name)
    moved = identity()
    moved[0] = 12.0
    graph.adopt({2: moved}, {}, newest=2, scales={2: 3.0}, joined={1: 0})
    at = [float(k.T_WC[0]) for k in graph.keyframes()]
    assert at == [0, 1, 12, 3, 12 + 3 * 2, 5]  # 3 follows 0, and 4 follows 2; 5 is alone
    assert graph.submaps.names == (0, 0, 0, 0, 0, 5)
    assert float(graph.keyframe(4).depth.value[0]) == pytest.approx(0.5 / 3)


def test_a_journal_has_what_became_of_submaps() -> None:
    told: list[Change] = []
    graph = Graph((100.0, 100.0, 50.0, 50.0))
    graph.observe(told.append)
    image = torch.zeros(4, 4, 3, dtype=torch.uint8)
    for number, name in enumerate((0, 1, 1, 3)):
        one = keyframe(number, identity())
        features = replace(one.frame.features, rgb=image)
        graph.add_keyframe(replace(one, frame=replace(one.frame, features=features)), name)
    graph.clear(graph.intrinsics, 3)
    graph.adopt({}, {}, joined={1: 0})
    again = Graph((1.0, 1.0, 0.0, 0.0))
    features = graph.keyframe(0).frame.features
    for change in told:
        apply(decode(*encode(change), lambda _: features), again)  # type: ignore[arg-type]
    assert again.submaps == graph.submaps == Submaps((0, 0, 0))


# --- killed --------------------------------------------------------------------------------------


def cut_after(journal: Path, out: Path, last: int) -> Commit:
    """Leaves in a new folder the journal up to the last commit before a frame."""
    kept: Commit | None = None
    end = 0
    for record in RecordReader(journal):
        if record.kind == "commit":
            commit = to_commit(record.values)
            if commit.standing.frame > last:
                break
            kept, end = commit, record.end
    out.mkdir()
    (out / JOURNAL).write_bytes(journal.read_bytes()[:end])
    assert kept is not None
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("on_trial", [True, False])
def test_a_run_killed_with_two_submaps_goes_on_to_the_same_end(
    returned: Run, tmp_path: Path, on_trial: bool
) -> None:
    second = [s.record.index for s in returned.steps if s.submap > 0]
    last = second[0] if on_trial else second[len(second) // 2]
    commit = cut_after(returned.folder / JOURNAL, tmp_path / "again", last)
    assert commit.standing.frontend.on_trial is on_trial
    resume(tmp_path / "again")
    said = [published(f / JOURNAL) for f in (tmp_path / "again", returned.folder)]
    assert differences(said[0], said[1]) == [] and len(said[0]) == len(returned.steps)
    report = json.loads((tmp_path / "again" / "report.json").read_text())
    for name in ("frame_list", "submaps"):
        assert report[name] == returned.report[name]
    assert report["ate"]["sim3_rmse"] < 1.2 * returned.report["ate"]["sim3_rmse"]


def published(journal: Path) -> list[Published]:
    """What was said of each frame at once."""
    found = [r for r in RecordReader(journal) if r.kind == "published"]
    return [decode(r.kind, r.values, lambda _: None) for r in found]  # type: ignore[misc,arg-type,return-value]
