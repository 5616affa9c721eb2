"""`slam run --predictor`: the simulated network on the sample, a network of one's own, bad ones."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import CommandResult
from pointmap_networks import CALL, agreeing_network, random_network
from sequences import cut_sample
from torch import nn

from slam.export import read_ply
from slam.frame import TrackState
from slam.trajectory import read_trajectory

Command = Callable[..., CommandResult]
COUNT = 14


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut_sample(tmp_path_factory.mktemp("cut") / "cut", range(0, 8 * COUNT, 8))


def settings(**values: object) -> list[str]:
    return [word for k, v in values.items() for word in ("--set", f"{k.replace('__', '.')}={v}")]


SIMULATED = settings(
    pointmap__long_side=192,
    pointmap__grid_stride=4,
    pointmap__keyframe_overlap=0.6,
    simulated__world="sample",
    simulated__finest=0.5,
)


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def saved(network: nn.Module, path: Path) -> Path:
    torch.save({"model": network.state_dict(), "args": argparse.Namespace(model=CALL)}, path)
    return path


@pytest.mark.parametrize("calibration", ["auto", pytest.param("none", marks=pytest.mark.slow)])
def test_the_simulated_network_gives_a_path_right_to_one_in_ten_thousand(
    sequence: Path, tmp_path: Path, run_cli: Command, calibration: str
) -> None:
    command = ["run", sequence, "--predictor", "simulated", "--calib", calibration, *SIMULATED]
    result = run_cli(*command, "--out", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    report = report_of(tmp_path / "out")
    assert report["posed"] == report["frames"] == COUNT and report["keyframes"] > 3
    assert report["ate"]["sim3_rmse"] < 1e-4 * report["ate"]["path_length"]
    assert report["ate_causal"]["sim3_rmse"] < 5e-4 * report["ate"]["path_length"]
    if calibration == "none":
        assert report["focal"]["pixels"] == pytest.approx(525, rel=2e-3)
    assert len(read_trajectory(tmp_path / "out" / "trajectory.txt")) == COUNT
    assert len(read_ply(tmp_path / "out" / "map.ply").points) > 2000


def test_a_network_runs_to_the_end(sequence: Path, tmp_path: Path, run_cli: Command) -> None:
    """It sees the same in every image: all frames are where the first one is."""
    path = saved(agreeing_network(), tmp_path / "net.pth")
    command = ["run", sequence, "--end", "3", "--predictor", "mast3r", "--checkpoint", path]
    options = settings(pointmap__long_side=96)
    result = run_cli(*command, "--out", tmp_path / "out", *options, "-q")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("3 frames, 3 posed, 0 weak, 0 lost, 1 keyframes")


def test_a_network_that_knows_nothing_loses_every_frame_and_says_so(
    sequence: Path, tmp_path: Path, run_cli: Command
) -> None:
    path = saved(random_network(), tmp_path / "net.pth")
    command = ["run", sequence, "--end", "3", "--predictor", "mast3r", "--checkpoint", path]
    options = settings(pointmap__long_side=96)
    result = run_cli(*command, "--out", tmp_path / "out", *options, "-q")
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert "no map: wanted frames whose points match those of a keyframe" in line
    report = report_of(tmp_path / "out")  # what there is was saved
    assert report["lost"] == 2
    states = [frame["state"] for frame in report["frame_list"]]
    assert states == [TrackState.TRACKED.value] + 2 * [TrackState.LOST.value]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--predictor", "mast3r"], "wants weights of MASt3R or DUSt3R, got none; name the file"),
        (["--predictor", "mast3r", "--checkpoint", "gone.pth"], "gone.pth: no such file"),
        (["--predictor", "mast3r", "--checkpoint", __file__], "got a file that is cut off or"),
        (["--checkpoint", "some.pth"], "checkpoint some.pth wants --predictor mast3r, got flow"),
        (
            ["--predictor", "mast3r", "--flow-weights", "raft.pth"],
            "flow weights raft.pth want --predictor flow, got mast3r",
        ),
        (["--predictor", "magic"], "predictor: wanted one of flow, mast3r, simulated, got 'magic'"),
    ],
)
def test_bad_predictors_are_one_line_before_anything_is_written(
    sequence: Path, tmp_path: Path, run_cli: Command, arguments: list[str], message: str
) -> None:
    result = run_cli("run", sequence, *arguments, "--out", tmp_path / "out")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err
    assert not (tmp_path / "out").exists()


def test_the_simulated_network_wants_true_poses(tmp_path: Path, run_cli: Command) -> None:
    bare = cut_sample(tmp_path / "bare", range(3))
    (bare / "groundtruth.txt").unlink()
    result = run_cli("run", bare, "--predictor", "simulated", "--out", tmp_path / "out")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "wanted a recording with true poses and depth maps" in result.err
