"""`slam localize`, `slam run --map` and `slam merge` on maps made of pointmaps."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CommandResult, expect_one_line
from pointmap_networks import CALL, agreeing_network
from sequences import cut_sample

from slam.evaluation.alignment import transform_points, umeyama
from slam.frame import SOLVED, source_of
from slam.merging import merge, move
from slam.predictors.factory import make_predictor
from slam.saved_map import SavedMap, load_map, restore_graph, save_map
from slam.sources.configured import open_configured
from slam.system import Slam
from slam.trajectory import Trajectory, read_trajectory

Command = Callable[..., CommandResult]
COUNT, MAPPED, OVERLAP = 18, 12, 8  # images: all, of the first map, where the second begins
SETTINGS = (
    "pointmap.long_side=128",
    "pointmap.grid_stride=4",
    "pointmap.keyframe_overlap=0.7",
    "simulated.world=sample",
    "simulated.finest=0.6",
    "simulated.noise=0.01",
)
SIMULATED = ("--predictor", "simulated", "-q", *(w for s in SETTINGS for w in ("--set", s)))


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut_sample(tmp_path_factory.mktemp("cut") / "cut", range(0, 7 * COUNT, 7))


@pytest.fixture(scope="module")
def first(sequence: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on the first images."""
    return ran(sequence, tmp_path_factory.mktemp("first") / "out", "--end", MAPPED)


@pytest.fixture(scope="module")
def second(sequence: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run on later ones, some of which the first has seen."""
    return ran(sequence, tmp_path_factory.mktemp("second") / "out", "--start", OVERLAP)


def ran(sequence: Path, out: Path, *options: object) -> Path:
    from slam.cli import main

    words = ["run", sequence, "--out", out, *options, *SIMULATED]
    assert main([str(word) for word in words]) == 0
    return out


def joint_error(sequence: Path, trajectory: Trajectory) -> float:
    """RMSE after ONE Sim(3) alignment of all, over the length of the path."""
    truth = read_trajectory(sequence / "groundtruth.txt")
    place = np.abs(truth.times[:, None] - trajectory.times).argmin(0)
    positions = truth.positions[place]
    aligned = umeyama(trajectory.positions, positions, with_scale=True)
    off = transform_points(aligned, trajectory.positions) - positions
    length = np.linalg.norm(np.diff(truth.positions, axis=0), axis=1).sum()
    return float(np.sqrt((off**2).sum(1).mean()) / length)


def together(one: Trajectory, other: Trajectory) -> Trajectory:
    times = np.concatenate([one.times, other.times])
    return Trajectory(times, np.concatenate([one.poses, other.poses]))


def test_images_are_found_in_a_map_of_pointmaps(
    sequence: Path, first: Path, tmp_path: Path, run_cli: Command
) -> None:
    """Those that the map has seen and those beyond it; together with its own they fit the truth."""
    before, out = (first / "map.slam").read_bytes(), tmp_path / "out"
    result = run_cli("localize", first, sequence, "--start", OVERLAP, "--out", out, "-q")
    assert result.code == 0, result.err
    assert (first / "map.slam").read_bytes() == before
    report = json.loads((out / "report.json").read_text())
    assert report["localised"] == report["frames"] == COUNT - OVERLAP
    assert report["first_pose"]["frames"] == 0
    both = together(
        read_trajectory(first / "trajectory.txt"), read_trajectory(out / "trajectory.txt")
    )
    assert joint_error(sequence, both) < 0.005


def test_a_frozen_map_of_pointmaps_stays_to_the_bit(sequence: Path, first: Path) -> None:
    saved = load_map(first)
    config = saved.settings()
    source = open_configured(config)
    with closing(Slam(source.camera, config, calibrated=source.calibrated)) as slam:
        slam.enter(saved, frozen=True)
        old = slam.graph.keyframes()
        for image in source.images(range(OVERLAP, MAPPED)):
            assert slam.feed(image).record.state in SOLVED
        slam.finish()
        for was, keyframe in zip(old, slam.graph.keyframes(), strict=False):
            assert torch.equal(was.T_WC, keyframe.T_WC)
            assert torch.equal(was.depth.value, keyframe.depth.value)
            assert was.pointmap is not None and keyframe.pointmap is not None
            assert torch.equal(was.pointmap.X_C, keyframe.pointmap.X_C)


def test_a_map_of_pointmaps_is_gone_on_with(
    sequence: Path, first: Path, tmp_path: Path, run_cli: Command
) -> None:
    out = tmp_path / "out"
    command = ("run", sequence, "--map", first, "--start", OVERLAP, "--out", out, "-q")
    result = run_cli(*command)
    assert result.code == 0, result.err
    both = load_map(out)
    assert both.sources == 2 and len(both.records) == MAPPED + COUNT - OVERLAP
    assert all(r.state in SOLVED for r in both.records)
    assert joint_error(sequence, both.poses()) < 0.005
    assert {source_of(k.index) for k in both.keyframes} == {0, 1}


@pytest.mark.slow
def test_two_maps_of_pointmaps_become_one(
    sequence: Path, first: Path, second: Path, tmp_path: Path
) -> None:
    """The second one lies elsewhere, in another unit."""
    saved, moved = load_map(second), tmp_path / "moved.slam"
    camera = saved.origin.camera
    graph = restore_graph(saved, make_predictor(camera.width, camera.height, saved.settings()))
    T = torch.tensor([3.0, -2.0, 1.0, 0.5, 0.5, -0.5, 0.5, 2.5], dtype=torch.float64)
    move(graph, range(len(graph)), T)
    save_map(moved, SavedMap.from_graph(graph, saved.origin, saved.settings(), saved.grid))
    found = merge(first, moved, tmp_path / "merged.slam")
    assert found.pairs >= 2 and found.edges > 2
    assert found.scale == pytest.approx(1 / 2.5, rel=0.05)
    both = load_map(tmp_path / "merged.slam")
    assert len(both.records) == MAPPED + COUNT - OVERLAP
    assert joint_error(sequence, both.poses()) < 0.005


def test_a_network_localises(sequence: Path, tmp_path: Path, run_cli: Command) -> None:
    """It sees the same in every image: all frames are where the first one of the map is."""
    path = tmp_path / "net.pth"
    torch.save(
        {"model": agreeing_network().state_dict(), "args": argparse.Namespace(model=CALL)}, path
    )
    made, out = tmp_path / "made", tmp_path / "out"
    network = ("--predictor", "mast3r", "--checkpoint", path, "--set", "pointmap.long_side=160")
    result = run_cli("run", sequence, "--end", "3", *network, "--out", made, "-q")
    assert result.code == 0, result.err
    result = run_cli("localize", made, sequence, "--end", "2", "--out", out, "-q")
    assert result.code == 0, result.err
    assert np.abs(read_trajectory(out / "trajectory.txt").positions).max() < 1e-3


def test_a_simulation_knows_the_recording_of_its_map_alone(
    first: Path, tmp_path: Path, run_cli: Command
) -> None:
    other = cut_sample(tmp_path / "other", range(5))
    result = run_cli("localize", first, other, "--out", tmp_path / "out")
    expect_one_line(result, "wanted the recording that the simulation of the map", str(other))
    assert not (tmp_path / "out").exists()
