"""Real and exact sequences (JPEG re-encodes and cuts of public data sets) from $SLAM_DATA."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CommandResult

Command = Callable[..., CommandResult]


def run_on(run_cli: Command, source: Path, out: Path, *arguments: str) -> dict:
    result = run_cli("run", source, "--out", out, "-q", *arguments)
    assert result.code == 0, result.err
    return json.loads((out / "report.json").read_text())


def check_trajectory(report: dict, limit: float) -> None:
    assert report["ate"]["sim3_rmse"] <= limit
    assert report["posed"] >= 0.995 * report["frames"]
    assert report["ate_causal"]["sim3_rmse"] <= 2 * report["ate"]["sim3_rmse"]


@pytest.mark.slow
def test_living_room(slam_data: Path, tmp_path: Path, run_cli: Command) -> None:
    check_trajectory(run_on(run_cli, slam_data / "icl_living_room_kt3", tmp_path / "out"), 0.003)


@pytest.mark.slow
def test_a_part_of_freiburg1_xyz(slam_data: Path, tmp_path: Path, run_cli: Command) -> None:
    source = slam_data / "rgbd_dataset_freiburg1_xyz"
    check_trajectory(run_on(run_cli, source, tmp_path / "out", "--end", "150"), 0.0085)


@pytest.mark.slow
def test_freiburg1_xyz(slam_data: Path, tmp_path: Path, run_cli: Command) -> None:
    """Depth against the sensor: accurate on most of what it sees; confidence ranks the errors."""
    source, out = slam_data / "rgbd_dataset_freiburg1_xyz", tmp_path / "out"
    check_trajectory(run_on(run_cli, source, out), 0.0085)
    values = json.loads(run_cli("eval-depth", out, source, "--json").out)
    assert values["errors"]["median_relative"] <= 0.025
    assert values["errors"]["coverage"] >= 0.65
    curve = values["curve"]
    assert curve["median"][curve["kept"].index(0.5)] <= 0.65 * curve["median"][0]


@pytest.mark.slow
def test_office(slam_data: Path, tmp_path: Path, run_cli: Command) -> None:
    """ICL-NUIM's ground truth is left-handed: a mirrored trajectory would turn the wrong way."""
    source = slam_data / "icl_office_kt0"
    check_trajectory(run_on(run_cli, source, tmp_path / "out"), 0.002)
    result = run_cli(
        "eval", tmp_path / "out" / "trajectory.txt", source / "groundtruth.txt", "--json"
    )
    values = json.loads(result.out)
    assert values["ate_sim3_m"]["rmse"] <= 0.002
    assert values["rpe_second"]["rotation_deg"]["rmse"] <= 0.2  # absolute: a short path says little


@pytest.mark.slow
@pytest.mark.parametrize("fov", ["45", "75"])
@pytest.mark.parametrize(
    ("name", "focal"), [("rgbd_dataset_freiburg1_xyz", 528), ("icl_living_room_kt3", 481)]
)
def test_uncalibrated(
    slam_data: Path, tmp_path: Path, run_cli: Command, name: str, focal: float, fov: str
) -> None:
    report = run_on(run_cli, slam_data / name, tmp_path / "out", "--calib", "none", "--fov", fov)
    assert report["focal"]["pixels"] == pytest.approx(focal, rel=0.1)
    if name.startswith("rgbd"):
        assert report["ate"]["sim3_rmse"] <= 0.05
