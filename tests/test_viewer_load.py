"""Scenes from files: a run's folder with and without its images, mirrored, damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sequences import cut_sample
from viewer_scenes import small_config

from slam.export import read_ply
from slam.outputs import RunResult
from slam.run import run
from slam.sources.ground_truth import mirrored
from slam.trajectory import read_trajectory, write_tum
from slam.viewer.load import load_scene


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("viewer")
    return run(small_config(cut_sample(folder / "cut", range(40)), folder / "out"))


def test_a_runs_folder_is_shown_in_the_colours_of_its_images(small_run: RunResult) -> None:
    scene = load_scene(small_run.folder)
    written = read_trajectory(small_run.folder / "trajectory.txt")
    np.testing.assert_allclose(scene.path, written.poses, atol=1e-6)
    assert len(scene.keyframes) == small_run.report["keyframes"] and len(scene.edges)
    assert all(k.rgb is not None for k in scene.keyframes) and len(scene.loose) == 0
    points, colors, _ = scene.cloud(20)
    cloud = read_ply(small_run.folder / "map.ply")
    np.testing.assert_allclose(np.median(points, 0), np.median(cloud.points, 0), atol=0.1)
    np.testing.assert_allclose(colors.mean(0), cloud.colors.mean(0), atol=8)


def copy_of(folder: Path, to: Path, *, source: str) -> Path:
    """The folder of an older run, which left no map.slam, whose source is elsewhere."""
    to.mkdir()
    for file in folder.iterdir():
        if file.name != "map.slam":
            (to / file.name).write_bytes(file.read_bytes())
    report = json.loads((to / "report.json").read_text())
    (to / "report.json").write_text(json.dumps(report | {"source": source}))
    lines = (to / "config.yaml").read_text().splitlines()
    changed = [f"  path: {source}" if line.startswith("  path:") else line for line in lines]
    (to / "config.yaml").write_text("\n".join(changed) + "\n")
    return to


def test_without_its_images_a_run_is_shown_by_its_cloud(
    small_run: RunResult, tmp_path: Path
) -> None:
    scene = load_scene(copy_of(small_run.folder, tmp_path / "copy", source="/nowhere"))
    cloud = read_ply(small_run.folder / "map.ply")
    assert len(scene.loose) == len(cloud.points) == scene.points
    assert len(scene.keyframes) == small_run.report["keyframes"]
    assert load_scene(small_run.folder / "map.ply").points == scene.points


def test_a_path_in_the_mirrored_convention_is_turned_back(
    small_run: RunResult, tmp_path: Path
) -> None:
    copy = copy_of(small_run.folder, tmp_path / "copy", source="/nowhere")
    written = read_trajectory(copy / "trajectory.txt")
    write_tum(copy / "trajectory.txt", mirrored(written))
    np.testing.assert_allclose(load_scene(copy).path, written.poses, atol=1e-6)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"keyframes\.npz"):
        load_scene(tmp_path)
    (tmp_path / "keyframes.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="damaged"):
        load_scene(tmp_path)
