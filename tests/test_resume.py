"""`slam resume`: runs killed anywhere go on; full disks, wrong folders, journals that stay."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import CommandResult, expect_one_line
from graph_state import differences
from killed import run_killed
from sequences import OUTPUTS, SAMPLE, cut_sample

from slam.config import Config
from slam.graph import Graph
from slam.journal_records import Commit, apply, decode
from slam.record_file import RecordReader, RecordWriter
from slam.session import JOURNAL, begin, find
from slam.sources.configured import open_configured
from slam.system import Slam

Command = Callable[..., CommandResult]


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a run is told."""

    count: int  # images
    long_side: int  # px

    def __call__(self, out: Path) -> list[str | Path]:
        small = f"flow.long_side={self.long_side}"
        return [SAMPLE, "--end", str(self.count), "-q", "--set", small, "--out", out]


QUICK, WHOLE = Arguments(60, 160), Arguments(120, 416)
POINTS = 20


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A run to its end, with its journal."""

    arguments: Arguments
    folder: Path
    keyframes: int
    ate: float  # m


def ate_of(folder: Path) -> float:
    return json.loads((folder / "report.json").read_text())["ate"]["sim3_rmse"]


def run_undisturbed(arguments: Arguments, folder: Path) -> Undisturbed:
    from slam.cli import main

    keep = ("--set", "run.keep_journal=true")
    assert main([str(a) for a in ("run", *arguments(folder), *keep)]) == 0
    kinds = [r.kind for r in RecordReader(folder / JOURNAL)]
    assert kinds[-2:] == ["commit", "ended"]
    return Undisturbed(arguments, folder, kinds.count("keyframe"), ate_of(folder))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return run_undisturbed(QUICK, tmp_path_factory.mktemp("undisturbed") / "out")


def map_at(journal: Path, config: Config, keyframes: int, *, last: bool) -> tuple[Graph, Commit]:
    """The map at the first or last commit with so many keyframes."""
    source = open_configured(config)
    with closing(Slam(source.camera, config, calibrated=source.calibrated)) as slam:
        entries, found, place = [], None, 0
        for record in RecordReader(journal):
            entry = decode(record.kind, record.values, slam.predictor.encode)
            entries.append(entry)
            if isinstance(entry, Commit) and entry.keyframes == keyframes:
                found, place = entry, len(entries)
                if not last:
                    break
        assert found is not None
        for entry in entries[:place]:
            if type(entry).__module__ == "slam.changes":
                apply(entry, slam.graph)
        return slam.graph, found


def expect_a_prefix(folder: Path, undisturbed: Undisturbed) -> int:
    """What a killed run left is what the other one was at that commit; returns its keyframes.

    All but the edges of the newest keyframe, which come from another thread, before or after.
    """
    found = find(folder)
    if found.commit is None:
        return 0
    count = found.commit.keyframes
    whole = undisturbed.folder / JOURNAL
    last = found.commit.standing.frame == undisturbed.arguments.count - 1  # through with the images
    got, commit = map_at(folder / JOURNAL, found.config, count, last=last)
    wanted, other = map_at(whole, found.config, count, last=last)
    again = replace(commit, seconds=other.seconds)
    assert differences(other.standing, again.standing) == []
    assert differences(wanted.keyframes(), got.keyframes()) == []
    assert differences(wanted.records(), got.records()) == []
    edges = [
        {e: c for e, c in g.edges().items() if max(e) < commit.standing.linked}
        for g in (wanted, got)
    ]
    assert differences(*edges) == []
    return count


def survives(
    folder: Path, undisturbed: Undisturbed, run_cli: Command, keyframes: int, after: float
) -> tuple[int, int, float]:
    """One kill: keyframes made, keyframes replayed, ATE in m of the run that was resumed."""
    made = run_killed(undisturbed.arguments(folder), keyframes, after)
    if not (folder / JOURNAL).exists():  # outputs are saved: too late to be killed
        raise AssertionError("it had ended")
    replayed = expect_a_prefix(folder, undisturbed)
    assert made - 1 <= replayed <= made, (made, replayed)
    result = run_cli("resume", folder, "-q")
    assert result.code == 0, result.err
    assert {p.name for p in folder.iterdir()} == OUTPUTS
    both = folder, undisturbed.folder
    report, whole = (json.loads((f / "report.json").read_text()) for f in both)
    assert report["frame_list"] == whole["frame_list"]
    assert report["posed"] == undisturbed.arguments.count
    assert replayed == 0 or 0 < report["resumed_at"] <= report["posed"]
    assert len({(f / "trajectory_causal.txt").read_text() for f in both}) == 1
    assert ate_of(folder) < 1.2 * undisturbed.ate
    return made, replayed, ate_of(folder)


@pytest.mark.parametrize(
    ("keyframes", "after"), [(3, 0.03), pytest.param(6, 0.0, marks=pytest.mark.slow)]
)
def test_a_killed_run_loses_at_most_one_keyframe_and_goes_on(
    undisturbed: Undisturbed, tmp_path: Path, run_cli: Command, keyframes: int, after: float
) -> None:
    survives(tmp_path / "out", undisturbed, run_cli, keyframes, after)


@pytest.fixture(scope="module")
def undisturbed_at_length(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return run_undisturbed(WHOLE, tmp_path_factory.mktemp("undisturbed") / "at_length")


@pytest.mark.slow
@pytest.mark.parametrize("point", range(POINTS))
def test_a_run_killed_at_a_random_point_goes_on(
    point: int,
    undisturbed_at_length: Undisturbed,
    tmp_path: Path,
    run_cli: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every fifth after the last keyframe. Prints point, keyframes made and replayed, ATE."""
    whole, chance = undisturbed_at_length, random.Random(point)
    keyframes, after = chance.randint(0, whole.keyframes), chance.uniform(0, 0.3)
    if point % 5 == 4:
        keyframes, after = whole.keyframes, 3 * after
    made, replayed, ate = survives(tmp_path / "out", whole, run_cli, keyframes, after)
    with capsys.disabled():
        print(
            f"\npoint {point:2d}, {1e3 * after:3.0f} ms after keyframe {keyframes:2d}: "
            f"{made:2d} of {whole.keyframes} made, {replayed:2d} kept, "
            f"ATE {1e3 * ate:.3f} mm ({1e3 * whole.ate:.3f} mm undisturbed)"
        )


# --- which folders ----------------------------------------------------------------------------


def test_what_cannot_be_resumed_is_said_in_one_line(
    undisturbed: Undisturbed, tmp_path: Path, run_cli: Command
) -> None:
    expect_one_line(run_cli("resume", undisturbed.folder), "finished", str(undisturbed.folder))
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "report.json").write_text("{}")
    expect_one_line(run_cli("resume", tmp_path / "done"), "finished")
    (tmp_path / "other").mkdir()
    expect_one_line(run_cli("resume", tmp_path / "other"), "other", JOURNAL)
    expect_one_line(run_cli("resume", tmp_path / "nowhere"), "nowhere")
    (tmp_path / "other" / JOURNAL).write_bytes(b"")
    expect_one_line(run_cli("resume", tmp_path / "other"), "before it began")
    (tmp_path / "other" / JOURNAL).write_text("a diary")
    expect_one_line(run_cli("resume", tmp_path / "other"), "a diary")


@pytest.fixture
def cut_short(undisturbed: Undisturbed, tmp_path: Path) -> Path:
    """A folder with the journal of a run until shortly after its fourth keyframe."""
    folder = tmp_path / "cut_short"
    folder.mkdir()
    data = (undisturbed.folder / JOURNAL).read_bytes()
    ends = [r.end for r in RecordReader(undisturbed.folder / JOURNAL) if r.kind == "commit"]
    (folder / JOURNAL).write_bytes(data[: ends[3] + 50])
    return folder


def test_a_new_run_does_not_overwrite_one_that_can_be_resumed(
    cut_short: Path, run_cli: Command
) -> None:
    before = (cut_short / JOURNAL).read_bytes()
    result = run_cli("run", *QUICK(cut_short))
    expect_one_line(result, f"slam resume {cut_short}")
    assert (cut_short / JOURNAL).read_bytes() == before


def test_a_run_cut_short_before_it_had_a_map_is_started_anew(
    cut_short: Path, run_cli: Command
) -> None:
    """By either command; a journal that says nothing is in nobody's way."""
    data, records = (cut_short / JOURNAL).read_bytes(), list(RecordReader(cut_short / JOURNAL))
    (cut_short / JOURNAL).write_bytes(data[: records[0].end])
    assert find(cut_short).commit is None
    begin(cut_short, Config()).end()
    (cut_short / JOURNAL).write_bytes(data[: records[0].end - 1])
    begin(cut_short, Config()).end()
    (cut_short / JOURNAL).write_bytes(data[: records[0].end])
    assert run_cli("resume", cut_short, "-q").code == 0
    assert json.loads((cut_short / "report.json").read_text())["posed"] == QUICK.count


def test_a_session_that_is_still_running_is_left_alone(cut_short: Path, run_cli: Command) -> None:
    path = cut_short / JOURNAL
    before, writer = path.read_bytes(), RecordWriter(path, path.stat().st_size)
    expect_one_line(run_cli("resume", cut_short), "another process")
    writer.close()
    assert path.read_bytes() == before


def test_damage_in_the_middle_is_named_with_a_way_out(cut_short: Path, run_cli: Command) -> None:
    data = bytearray((cut_short / JOURNAL).read_bytes())
    data[len(data) // 2] ^= 1
    (cut_short / JOURNAL).write_bytes(data)
    expect_one_line(run_cli("resume", cut_short), "damaged", "number", "truncate -s")


def test_a_source_that_is_gone_is_named(
    cut_short: Path, tmp_path: Path, run_cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slam import session

    found = session.find(cut_short)
    gone = replace(found.config, source=replace(found.config.source, path=str(tmp_path / "gone")))
    monkeypatch.setattr("slam.run.find", lambda folder: replace(found, config=gone))
    before = (cut_short / JOURNAL).read_bytes()
    expect_one_line(run_cli("resume", cut_short), "gone")
    assert (cut_short / JOURNAL).read_bytes() == before


@pytest.mark.slow
def test_real_time_goes_on_at_the_cameras_pace(
    cut_short: Path, run_cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find(cut_short)
    live = replace(found.config, run=replace(found.config.run, realtime=True))
    monkeypatch.setattr("slam.run.find", lambda folder: replace(found, config=live))
    assert run_cli("resume", cut_short, "-q").code == 0
    report = json.loads((cut_short / "report.json").read_text())
    assert found.commit is not None
    assert report["processed"] + report["dropped"] == QUICK.count
    assert report["latency"][0]["index"] > found.commit.standing.frame
    assert report["ate"]["sim3_rmse"] < 0.03 * report["ate"]["path_length"]


# --- where it cannot be written ---------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for a journal of more than a megabyte."""
    room, write = [1_000_000], RecordWriter.write

    def writing(writer: RecordWriter, kind: str, values: Mapping[str, np.ndarray]) -> int:
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= (size := write(writer, kind, values))
        return size

    monkeypatch.setattr(RecordWriter, "write", writing)


SHORT = ("--set", "flow.long_side=160", "-v")


@pytest.mark.slow
@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_stops_the_run_saves_and_lets_it_be_resumed(
    tmp_path: Path, run_cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = cut_sample(tmp_path / "cut", range(40, 100, 2)), tmp_path / "out"
    result = run_cli("run", source, "--out", out, *SHORT)
    expect_one_line(result, JOURNAL, "No space left", f"slam resume {out}", "on_journal_error")
    assert {p.name for p in out.iterdir()} == OUTPUTS | {JOURNAL}
    first = json.loads((out / "report.json").read_text())
    assert 3 < first["processed"] < 30
    monkeypatch.undo()  # there is room again
    assert run_cli("resume", out, "-q").code == 0
    report = json.loads((out / "report.json").read_text())
    assert report["processed"] == report["posed"] == 30
    assert {p.name for p in out.iterdir()} == OUTPUTS


@pytest.mark.slow
@pytest.mark.usefixtures("full_disk")
def test_where_the_user_says_so_a_run_goes_on_without_its_journal(
    tmp_path: Path, run_cli: Command, caplog: pytest.LogCaptureFixture
) -> None:
    source, out = cut_sample(tmp_path / "cut", range(40, 100, 2)), tmp_path / "out"
    go_on = ("--set", "run.on_journal_error=continue")
    result = run_cli("run", source, "--out", out, *SHORT, *go_on)
    assert result.code == 0
    warnings = [line for line in caplog.messages if "No space left" in line]
    assert len(warnings) == 1 and "goes on" in warnings[0]
    assert json.loads((out / "report.json").read_text())["posed"] == 30
    assert {p.name for p in out.iterdir()} == OUTPUTS


def test_a_folder_that_takes_no_journal_stops_a_run_before_it_starts(
    tmp_path: Path, run_cli: Command, caplog: pytest.LogCaptureFixture
) -> None:
    source, out = cut_sample(tmp_path / "cut", range(40, 80, 2)), tmp_path / "out"
    (out / JOURNAL).mkdir(parents=True)  # as good as a folder that is read-only, also to root
    expect_one_line(run_cli("run", source, "--out", out, *SHORT), JOURNAL, "directory")
    assert [p.name for p in out.iterdir()] == [JOURNAL]
    config = Config()
    go_on = replace(config, run=replace(config.run, on_journal_error="continue"))
    begin(out, go_on).before_keyframe()
    assert "goes on" in caplog.text


def test_without_a_journal_nothing_is_kept(tmp_path: Path) -> None:
    config = Config()
    session = begin(tmp_path, replace(config, run=replace(config.run, journal=False)))
    session.before_keyframe()
    session.end()
    session.finished(keep=True)
    assert list(tmp_path.iterdir()) == []
