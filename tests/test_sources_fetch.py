"""The scripts that fetch data sets, run on archives made here: what they leave can be opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from slam.sources import open_source

SCRIPTS = Path(__file__).resolve().parents[1] / "datasets"
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "tar", "unzip"))),
    reason="the fetch scripts need bash, curl, tar and unzip",
)


def run(script: str, *arguments: object, **environment: object) -> subprocess.CompletedProcess:
    variables = {**os.environ, **{key: str(value) for key, value in environment.items()}}
    command = ["bash", str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def png(width: int = 640, height: int = 480) -> bytes:
    return cv2.imencode(".png", np.full((height, width, 3), 90, np.uint8))[1].tobytes()


def pack(archive: Path, files: dict[str, bytes], staging: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).write_bytes(content)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name in files:
                packed.write(staging / name, name)
        return
    with tarfile.open(archive, "w:gz") as packed:
        for name in files:
            packed.add(staging / name, name)


def test_tum(tmp_path: Path) -> None:
    root = "rgbd_dataset_freiburg1_xyz"
    files = {f"{root}/rgb.txt": b"# freiburg1\n1.5 rgb/a.png\n", f"{root}/rgb/a.png": png()}
    pack(tmp_path / f"web/freiburg1/{root}.tgz", files, tmp_path / "staging")
    done = run("tum.sh", tmp_path / "out", "freiburg1_xyz", TUM_URL=f"file://{tmp_path}/web")
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path / "out") == [root]
    source = open_source(tmp_path / "out" / root)
    assert source.format == "tum" and source.calibrated


def test_seven_scenes_unpacks_the_archives_in_the_archive(tmp_path: Path) -> None:
    inner = {"seq-01/frame-000000.color.png": png()}
    pack(tmp_path / "inner/seq-01.zip", inner, tmp_path / "staging")
    outer = {"chess/seq-01.zip": (tmp_path / "inner/seq-01.zip").read_bytes()}
    pack(tmp_path / "web/chess.zip", outer, tmp_path / "staging")
    url = f"file://{tmp_path}/web"
    done = run("seven_scenes.sh", tmp_path / "out", "chess", SEVEN_SCENES_URL=url)
    assert done.returncode == 0, done.stderr
    assert open_source(tmp_path / "out/chess").format == "7scenes"


def test_icl_adds_the_ground_truth_that_the_archive_lacks(tmp_path: Path) -> None:
    files = {"associations.txt": b"1 depth/1.png 1 rgb/1.png\n", "rgb/1.png": png()}
    pack(tmp_path / "web/traj0_frei_png.tar.gz", files, tmp_path / "staging")
    (tmp_path / "web/VaFRIC").mkdir()
    (tmp_path / "web/VaFRIC/traj0.gt.freiburg").write_text("1 0 0 0 0 0 0 1\n")
    done = run("icl.sh", tmp_path / "out", "traj0", ICL_URL=f"file://{tmp_path}/web")
    assert done.returncode == 0, done.stderr
    source = open_source(tmp_path / "out/traj0")
    assert source.format == "icl" and source.ground_truth is not None


def test_euroc_eth3d_and_kitti(tmp_path: Path) -> None:
    web, staging = tmp_path / "web", tmp_path / "staging"
    image = png(64, 48)
    euroc = {"mav0/cam0/data.csv": b"1000000000,a.png\n", "mav0/cam0/data/a.png": image}
    pack(web / "vicon_room1/V1_01_easy/V1_01_easy.zip", euroc, staging)
    eth3d = {"c/rgb.txt": b"1.5 a.png", "c/a.png": image, "c/calibration.txt": b"60 60 32 24"}
    pack(web / "c_mono.zip", eth3d, staging)
    root = "dataset/sequences/07"
    pack(web / "data_odometry_calib.zip", {f"{root}/times.txt": b"0\n"}, staging)
    pack(
        web / "data_odometry_poses.zip",
        {"dataset/poses/07.txt": b"1 0 0 0 0 1 0 0 0 0 1 0"},
        staging,
    )
    pack(web / "data_odometry_gray.zip", {f"{root}/image_0/000000.png": image}, staging)
    out = tmp_path / "out"
    url = f"file://{web}"
    runs = [
        run("euroc.sh", out, "V1_01_easy", EUROC_URL=url),
        run("eth3d.sh", out, "c", ETH3D_URL=url),
        run("kitti.sh", out, KITTI_URL=url),
    ]
    assert [done.returncode for done in runs] == [0, 0, 0], [done.stderr for done in runs]
    folders = (out / "V1_01_easy", out / "c", out / root)
    assert [open_source(folder).format for folder in folders] == ["euroc", "eth3d", "kitti"]


@pytest.mark.parametrize("script", ["tum", "seven_scenes", "icl", "euroc", "eth3d", "kitti"])
def test_without_arguments_a_script_says_how_it_is_used(script: str) -> None:
    done = run(f"{script}.sh")
    assert done.returncode == 2
    assert f"Usage: {script}.sh FOLDER" in done.stderr and "base=" not in done.stderr


def test_a_failed_download_fails_the_script_and_leaves_no_archive(tmp_path: Path) -> None:
    done = run("tum.sh", tmp_path / "out", "freiburg1_xyz", TUM_URL=f"file://{tmp_path}/web")
    assert done.returncode != 0
    assert not list((tmp_path / "out").glob("*.tgz"))
