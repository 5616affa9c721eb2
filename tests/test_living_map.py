"""`slam localize`, `slam run --map`, `slam merge`: a finished map is entered again."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import CommandResult, expect_one_line
from graph_state import differences
from saved_maps import CAMERA, PREDICTOR, around, made_map, sphere_depth
from sequences import OUTPUTS, SAMPLE, cut_sample

from slam.config import Config
from slam.edges import Edges
from slam.evaluation.alignment import transform_points, transform_trajectory, umeyama
from slam.frame import PER_SOURCE, SOLVED, FrameRecord, InverseDepth, TrackState, source_of
from slam.graph import Graph
from slam.initialization import identity
from slam.merging import merge, move
from slam.optimization import BundleAdjustment, bundle_adjust
from slam.predictors import Grid, Predictor
from slam.predictors.factory import make_predictor
from slam.recovery import nearest_in_time
from slam.refinement import fill_gaps
from slam.saved_map import SavedMap, load_map, restore_graph, save_map, settings_in_map
from slam.saved_map.packing import pack_image
from slam.session import JOURNAL
from slam.sources.configured import open_configured
from slam.system import Slam
from slam.trajectory import Trajectory, associate, read_trajectory

Command = Callable[..., CommandResult]
SMALL = ("-q", "--set", "flow.long_side=160")
MAPPED, OVERLAP, END = 70, 35, 100  # images of the sample: first map, second from, last
TRUTH = read_trajectory(SAMPLE / "groundtruth.txt")


def positions_of(estimate: Trajectory, truth: Trajectory = TRUTH) -> tuple[np.ndarray, np.ndarray]:
    """Estimated and true positions [N, 3] of the frames of a trajectory."""
    pairs = associate(estimate.times, truth.times, 0.01)
    assert len(pairs) == len(estimate)
    return estimate.positions[pairs[:, 0]], truth.positions[pairs[:, 1]]


def ordered(trajectory: Trajectory) -> Trajectory:
    """In the order of time, each time once."""
    _, place = np.unique(trajectory.times, return_index=True)
    return Trajectory(trajectory.times[place], trajectory.poses[place])


def joint_error(trajectory: Trajectory) -> float:
    """RMSE in m after ONE Sim(3) alignment of all."""
    estimate, truth = positions_of(ordered(trajectory))
    T = umeyama(estimate, truth, with_scale=True)
    off = transform_points(T, estimate) - truth
    return float(np.sqrt((off**2).sum(1).mean()))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the sample's first images."""
    from slam.cli import main

    out = tmp_path_factory.mktemp("living") / "first"
    arguments = ["run", str(SAMPLE), "--end", str(MAPPED), "--out", str(out), *SMALL]
    assert main(arguments) == 0
    return out


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run on later ones, some of which the first has seen."""
    from slam.cli import main

    out = tmp_path_factory.mktemp("living") / "second"
    span = ("--start", str(OVERLAP), "--end", str(END))
    assert main(["run", str(SAMPLE), *span, "--out", str(out), *SMALL]) == 0
    return out


def in_truth(first: Path, trajectory: Trajectory) -> Trajectory:
    """A trajectory in the first map's world, aligned as that map's own frames are."""
    T = umeyama(*positions_of(read_trajectory(first / "trajectory.txt")), with_scale=True)
    return transform_trajectory(T, trajectory)


def test_time_says_nothing_across_sources() -> None:
    """Three keyframes each of two sources, at times that follow one another."""
    made = made_map(around(6), sphere_depth).graph
    keyframes = [
        replace(k, frame=replace(k.frame, index=k.frame.index + PER_SOURCE * (n // 3)))
        for n, k in enumerate(made.keyframes())
    ]
    with closing(Edges(PREDICTOR, made, Config())) as edges:
        pairs = edges.new_pairs(keyframes[:5], 4, 3, 0, CAMERA.intrinsics)
    assert pairs == [(3, 4)]
    assert nearest_in_time(keyframes, keyframes[5].frame, 6) == [5, 4, 3]
    assert nearest_in_time(keyframes[3:], keyframes[0].frame, 6) == []
    graph = Graph(CAMERA.intrinsics)
    for keyframe in keyframes:
        number = graph.add_keyframe(keyframe)
        frame = keyframe.frame
        for step, state in enumerate((TrackState.TRACKED, TrackState.PENDING)):
            measured = (frame.time + step, frame.seconds + step, state, number, identity(), None)
            graph.set_record(FrameRecord(frame.index + step, *measured))
    fill_gaps(graph)
    last = graph.record(keyframes[2].frame.index + 1)
    assert last.keyframe == 2 and last.state is TrackState.WEAK
    assert torch.allclose(graph.T_WC(last), keyframes[2].T_WC, atol=1e-12)


def test_a_frozen_graph_takes_nothing_over_but_for_what_came_later() -> None:
    graph = made_map(around(3), sphere_depth).graph
    graph.freeze()
    for keyframe in made_map(around(3), sphere_depth).graph.keyframes()[:1]:
        graph.add_keyframe(keyframe)
    before, records = graph.keyframes(), graph.records()
    depths = {n: scaled(k.depth, 1.3) for n, k in enumerate(before)}
    for number, depth in depths.items():
        assert graph.fused(number, before[number].depth, depth)[1] == 1.0
    graph.adopt(
        {n: before[n - 1].T_WC for n in range(4)}, depths, scales=dict.fromkeys(depths, 2.0)
    )
    after = graph.keyframes()
    assert graph.frozen == 3 and differences(before[:3], after[:3]) == []
    assert differences(records, graph.records()) == []
    assert differences(after[3].T_WC, before[2].T_WC) == []
    assert differences(after[3].depth, depths[3]) == []


def scaled(depth: InverseDepth, factor: float) -> InverseDepth:
    return InverseDepth(depth.value / factor, depth.information * factor**2)


# --- localize ---------------------------------------------------------------------------------


def test_images_in_kidnapped_order_are_found_in_a_map_that_stays(
    first: Path, tmp_path: Path, run_cli: Command
) -> None:
    """Four blank images, then places in another order, the last ones beyond the map."""
    frames = [0, 0, 0, 0, *range(50, 60), *range(10, 20), *range(65, 82)]
    source = cut_sample(
        tmp_path / "cut",
        frames,
        change=lambda n, image: image if n >= 4 else np.full_like(image, 90),
    )
    before, out = (first / "map.slam").read_bytes(), tmp_path / "out"
    result = run_cli("localize", first, source, "--out", out, "-q")
    assert result.code == 0, result.err
    assert (first / "map.slam").read_bytes() == before
    assert {p.name for p in out.iterdir()} == {"trajectory.txt", "report.json", "config.yaml"}
    report = json.loads((out / "report.json").read_text())
    assert [f["state"] for f in report["frame_list"][:4]] == ["lost"] * 4
    assert report["localised"] == len(frames) - 4 and report["states"]["lost"] == 4
    assert report["first_pose"]["frames"] == 4
    assert report["first_pose"]["seconds"] == pytest.approx(4 / 30, abs=1e-4)
    assert report["relocalisations"] >= 2
    found = in_truth(first, read_trajectory(out / "trajectory.txt"))
    estimate, truth = positions_of(found, read_trajectory(source / "groundtruth.txt"))
    off = np.linalg.norm(estimate - truth, axis=1)
    assert np.sqrt((off**2).mean()) < 0.02, off.round(3)


def fed(slam: Slam, indices: range) -> None:
    source = open_configured(slam.config)
    for image in source.images(indices):
        slam.feed(image)
    slam.finish()


def test_a_frozen_map_stays_to_the_bit(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keyframes, depths, edges and frames, with new keyframes tied to them and all adjusted.

    No adjustment counts on moving any of it, either.
    """
    taken_part = 0

    def adjusted(grid: Grid, state: BundleAdjustment, edges: Any, *flags: Any, **named: Any) -> Any:
        nonlocal taken_part
        old = {id(k.depth) for k in slam.graph.keyframes()[: slam.graph.frozen]}
        for depth, fixed, held in zip(state.depth, *flags[:2], strict=True):
            taken_part += id(depth) in old
            assert id(depth) not in old or (fixed and held)
        return bundle_adjust(grid, state, edges, *flags, **named)

    monkeypatch.setattr("slam.adjuster.bundle_adjust", adjusted)
    saved = load_map(first)
    config = settings_in_map(first, None, [f"source.path={SAMPLE}"])
    with closing(Slam(open_configured(config).camera, config)) as slam:
        slam.enter(saved, frozen=True)
        fed(slam, range(55, 85))
    assert taken_part > 10
    was = restore_graph(saved, slam.predictor)
    count = len(was)
    for before, after in zip(was.keyframes(), slam.graph.keyframes()[:count], strict=True):
        shifted = replace(after.frame, index=after.frame.index + PER_SOURCE)
        assert differences(before, replace(after, frame=shifted)) == []
    edges = {e: c for e, c in slam.graph.edges().items() if max(e) < count}
    assert differences(was.edges(), edges) == []
    records = [r for r in slam.graph.records() if source_of(r.index) < 0]
    back = [replace(r, index=r.index + PER_SOURCE) for r in records]
    assert differences(was.records(), back) == []
    assert differences(was.intrinsics, slam.graph.intrinsics) == []
    assert len(slam.graph) > count + 2
    assert len([e for e in slam.graph.edges() if min(e) < count <= max(e)]) > 4


# --- run --map --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def continued(first: Path) -> Path:
    """The first map, gone on with where its images end."""
    from slam.cli import main

    out, span = first.parent / "continued", ("--start", str(MAPPED), "--end", str(END))
    keep = ("--set", "run.keep_journal=true", "-q")
    arguments = ["run", str(SAMPLE), *span, "--map", str(first), "--out", str(out), *keep]
    assert main(arguments) == 0
    return out


def test_a_map_gone_on_with_holds_both_and_the_path_what_is_new(
    first: Path, continued: Path
) -> None:
    assert {p.name for p in continued.iterdir()} == OUTPUTS | {JOURNAL}
    old, new = load_map(first), load_map(continued)
    assert (old.sources, new.sources) == (1, 2)
    assert len(new.records) == END
    count = len(old.keyframes)
    assert [k.index for k in new.keyframes[:count]] == [k.index for k in old.keyframes]
    assert all(source_of(k.index) == 1 for k in new.keyframes[count:])
    pairs = list(zip(old.keyframes[1:], new.keyframes[1:count], strict=True))
    assert all(differences(a.T_WC, b.T_WC) for a, b in pairs)  # all is adjusted
    assert sorted(r.index % PER_SOURCE for r in new.records) == list(range(END))
    path = read_trajectory(continued / "trajectory.txt")
    assert len(path) == END - MAPPED
    assert sum(min(e) < count <= max(e) for e in new.edges) > 4
    report = json.loads((continued / "report.json").read_text())
    assert report["posed"] == report["processed"] == END - MAPPED
    assert report["continued"]["keyframes_made"] == len(new.keyframes) - count
    with np.load(continued / "keyframes.npz") as stored:
        assert len(stored["index"]) == len(new.keyframes) - count
        assert stored["index"].max() < END and stored["edges"].max() < len(stored["index"])


def test_both_parts_of_a_map_gone_on_with_fit_the_truth_together(continued: Path) -> None:
    assert joint_error(load_map(continued).poses()) < 0.02


@pytest.mark.slow
def test_a_map_can_be_gone_on_with_again(continued: Path, tmp_path: Path, run_cli: Command) -> None:
    out, span = tmp_path / "again", ("--start", "0", "--end", "12")
    assert run_cli("run", SAMPLE, *span, "--map", continued, "--out", out, "-q").code == 0
    saved = load_map(out)
    assert saved.sources == 3
    assert [source_of(r.index) for r in saved.records].count(2) == 12
    assert joint_error(saved.poses()) < 0.02


@pytest.mark.slow
def test_a_run_in_a_map_that_was_killed_goes_on(
    continued: Path, tmp_path: Path, run_cli: Command
) -> None:
    from slam.record_file import RecordReader

    data = (continued / JOURNAL).read_bytes()
    ends = [r.end for r in RecordReader(continued / JOURNAL) if r.kind == "commit"]
    out = tmp_path / "cut"
    out.mkdir()
    (out / JOURNAL).write_bytes(data[: ends[3] + 10])
    assert run_cli("resume", out, "-q").code == 0
    report, whole = (json.loads((f / "report.json").read_text()) for f in (out, continued))
    assert MAPPED < report["resumed_at"] + MAPPED < END
    assert report["frame_list"] == whole["frame_list"]
    assert load_map(out).sources == 2


# --- merge ------------------------------------------------------------------------------------


def test_two_maps_that_overlap_become_one(first: Path, second: Path, tmp_path: Path) -> None:
    """Frame poses of both after one alignment; the second map's scale was another."""
    saved, moved = load_map(second), tmp_path / "moved.slam"
    graph = restore_graph(saved, restorer(saved))
    T = torch.tensor([3.0, -2.0, 1.0, 0.5, 0.5, -0.5, 0.5, 2.5], dtype=torch.float64)
    move(graph, range(len(graph)), T)
    dense = saved.dense_grid, [k.dense.unpack() for k in saved.keyframes if k.dense is not None]
    assert dense[0] is not None
    larger = [scaled(d, 2.5) for d in dense[1]]
    save_map(
        moved,
        SavedMap.from_graph(graph, saved.origin, saved.settings(), saved.grid, (dense[0], larger)),
    )
    found = merge(first, moved, tmp_path / "merged.slam")
    both = load_map(tmp_path / "merged.slam")
    old = load_map(first)
    assert found.keyframes == (len(old.keyframes), len(saved.keyframes))
    assert found.pairs >= 3 and found.edges > 10
    assert differences(old.keyframes[0].T_WC, both.keyframes[0].T_WC) == []
    assert (both.sources, len(both.records)) == (2, MAPPED + END - OVERLAP)
    assert joint_error(both.poses()) < 0.02
    pairs = dict[float, list[np.ndarray]]()
    poses = both.poses()
    for time, position in zip(poses.times, poses.positions, strict=True):
        pairs.setdefault(float(time), []).append(position)
    twice = [np.linalg.norm(p[1] - p[0]) for p in pairs.values() if len(p) == 2]
    path = np.linalg.norm(np.diff(poses.positions[:MAPPED], axis=0), axis=1).sum()
    assert len(twice) == MAPPED - OVERLAP and max(twice) < 0.02 * path


def restorer(saved: SavedMap) -> Predictor:
    """The predictor that a map was made with."""
    camera = saved.origin.camera
    return make_predictor(camera.width, camera.height, saved.settings())


@pytest.mark.slow
def test_maps_with_nothing_in_common_are_left_alone(
    first: Path, second: Path, tmp_path: Path, run_cli: Command
) -> None:
    saved, noise = load_map(second), torch.Generator().manual_seed(3)
    shape = (saved.grid.height, saved.grid.width, 3)
    images = [torch.randint(0, 255, shape, generator=noise).byte() for _ in saved.keyframes]
    strange = [
        replace(k, jpeg=pack_image(image)) for k, image in zip(saved.keyframes, images, strict=True)
    ]
    save_map(tmp_path / "strange.slam", replace(saved, keyframes=tuple(strange)))
    result = run_cli("merge", first, tmp_path / "strange.slam", "-o", tmp_path / "c.slam")
    expect_one_line(result, "strange.slam", "see the same place", "--map")
    assert not (tmp_path / "c.slam").exists()


# --- what does not fit ------------------------------------------------------------------------


def test_what_does_not_suit_a_map_is_said_in_one_line(
    first: Path, tmp_path: Path, run_cli: Command
) -> None:
    out = ("--out", tmp_path / "out")
    calibration = yaml.safe_load((SAMPLE / "calibration.yaml").read_text())
    width, height, *(fx, fy, cx, cy) = intrinsics_of(calibration)
    other = tmp_path / "other.yaml"
    text = {"model": "pinhole", "width": width, "height": height}
    other.write_text(yaml.safe_dump(text | {"intrinsics": [1.05 * fx, 1.05 * fy, cx, cy]}))
    for command in (("localize", first, SAMPLE), ("run", SAMPLE, "--map", first)):
        expect_one_line(run_cli(*command, *out, "--calib", other), "wanted the camera", "--calib")
        wrong = ("--set", "flow.long_side=96")
        expect_one_line(run_cli(*command, *out, *wrong), "160x120", "96x72")
    expect_one_line(run_cli("localize", tmp_path / "none", SAMPLE, *out), "none")
    expect_one_line(run_cli("merge", first, tmp_path / "none", "-o", tmp_path / "c"), "none")
    made = made_map(around(3), sphere_depth).saved
    save_map(tmp_path / "small.slam", made)
    expect_one_line(
        run_cli("merge", first, tmp_path / "small.slam", "-o", tmp_path / "c"), "160x120", "96x72"
    )
    save_map(tmp_path / "points.slam", replace(load_map(first), predictor="simulated"))
    expect_one_line(run_cli("localize", tmp_path / "points.slam", SAMPLE, *out), "by simulated")
    assert not (tmp_path / "c").exists() and not (tmp_path / "out").exists()


def intrinsics_of(calibration: dict) -> tuple[float, ...]:
    return calibration["width"], calibration["height"], *calibration["intrinsics"]


@pytest.mark.slow
def test_a_map_that_sees_nothing_of_the_images_loses_them_all(
    first: Path, tmp_path: Path, run_cli: Command
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (8, 480, 640, 3), np.uint8)
    blurred = [cv2.GaussianBlur(image, (0, 0), 2) for image in noise]
    source = cut_sample(tmp_path / "cut", range(8), change=lambda n, _: blurred[n])
    result = run_cli("localize", first, source, "--out", tmp_path / "out", "-q")
    assert result.code == 0 and "no frame was found" in result.out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["states"] == {TrackState.LOST.value: 8}
    assert report["first_pose"] is None and report["share"] == 0
    assert TrackState.LOST not in SOLVED


def test_in_a_hurry_no_more_pairs_are_measured() -> None:
    made = made_map(around(6), sphere_depth).graph
    before = made.edges()
    with closing(Edges(PREDICTOR, made, Config())) as edges:
        edges.hurry.set()
        edges.measure(made.keyframes(), [(0, 1), (0, 5)], CAMERA.intrinsics)
    assert made.edges().keys() == before.keys()
