"""Calibration of cameras whose truth is known: rendered boards, doubtful views, bad input."""

from __future__ import annotations

import itertools
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from board_views import Pose, Renderer, spread_poses
from conftest import CommandResult, expect_one_line
from sequences import SAMPLE, cut_sample

from slam.calibration import Board, View, choose_views, parse_board, solve
from slam.calibration.report import calibration_file, warnings_of
from slam.calibration.solve import FEWEST
from slam.camera import Camera, load_calibration
from slam.sources import open_source
from slam.sources.capture import CameraDevice, Shot

Command = Callable[..., CommandResult]
WIDTH, HEIGHT = 400, 300
CAMERAS = {  # principal points off the middle, fx unlike fy, p1 unlike p2: a mix-up shows
    "pinhole": Camera("pinhole", WIDTH, HEIGHT, (350.0, 344.0, 194.0, 154.0)),
    "radtan": Camera(
        "radtan", WIDTH, HEIGHT, (328.0, 333.0, 204.0, 145.0), (-0.2, 0.07, 0.004, -0.003, 0.0)
    ),
    "kannala_brandt": Camera(
        "kannala_brandt", WIDTH, HEIGHT, (176.0, 179.0, 203.0, 147.0), (0.02, -0.01, 0.004, -0.001)
    ),
}
BOARDS = {
    "checkerboard": parse_board("checkerboard:9x6"),
    "charuco": parse_board("charuco:7x5", 40),
}
DISTANCES = {"kannala_brandt": (260, 360)}  # mm; 500, 700 of the others


@dataclass(frozen=True)
class Seen:
    """Images of a board."""

    images: list[np.ndarray]
    views: list[View]


@pytest.fixture(scope="module")
def seen() -> Callable[[str, str], Seen]:
    """`seen(model, kind)`: 18 images, made once."""
    made: dict[tuple[str, str], Seen] = {}

    def make(model: str, kind: str) -> Seen:
        if (model, kind) not in made:
            renderer = Renderer(CAMERAS[model], BOARDS[kind])
            poses = spread_poses(*DISTANCES.get(model, (500, 700)))
            images = [renderer.render(pose, seed=n) for n, pose in enumerate(poses)]
            found = (BOARDS[kind].find(f"image {n}", grey) for n, grey in enumerate(images))
            made[model, kind] = Seen(images, [view for view in found if view is not None])
        return made[model, kind]

    return make


# --- what is found --------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "kind"), list(itertools.product(CAMERAS, BOARDS)))
def test_the_camera_that_rendered_the_board_is_found(
    seen: Callable[[str, str], Seen], model: str, kind: str
) -> None:
    views, true = seen(model, kind).views, CAMERAS[model]
    assert len(views) >= 13
    solution = solve(views, model, (WIDTH, HEIGHT))
    found, sigma = solution.camera, solution.sigma
    assert solution.rms < (0.1 if kind == "checkerboard" else 0.15)  # unrefined 0.14
    for name, got, wanted in zip(
        ("fx", "fy", "cx", "cy"), found.intrinsics, true.intrinsics, strict=True
    ):
        assert abs(got - wanted) < (0.004 * wanted if name[0] == "f" else 1.0), name
        assert abs(got - wanted) < 4.5 * sigma[name] < 5, name
    names = [name for name in sigma if name[0] in "kp"]
    for name, got, wanted in zip(names, found.distortion, true.distortion, strict=True):
        assert abs(got - wanted) < 4.5 * sigma[name], name
    if model == "radtan":
        assert sigma["p1"] < 5e-4 and sigma["p2"] < 5e-4 and sigma["k1"] < 0.01


def test_deviations_are_those_of_opencv(seen: Callable[[str, str], Seen]) -> None:
    views = seen("radtan", "checkerboard").views
    solution = solve(views, "radtan", (WIDTH, HEIGHT))
    X = [view.X_B.astype(np.float32) for view in solution.views]
    pixel = [view.pixel.astype(np.float32) for view in solution.views]
    done = cv2.calibrateCameraExtended(X, pixel, (WIDTH, HEIGHT), np.eye(3), np.zeros(5))
    np.testing.assert_allclose(list(solution.sigma.values()), done[5].ravel()[:9], rtol=0.05)
    assert solution.rms == pytest.approx(done[0], rel=1e-3)
    np.testing.assert_allclose(solution.view_rms, done[7].ravel(), rtol=1e-3)


# --- which views ----------------------------------------------------------------------------------


def test_views_that_contradict_the_others_are_thrown_out(seen: Callable[[str, str], Seen]) -> None:
    views = seen("radtan", "checkerboard").views
    bent = views[5].pixel + 4 * np.sin(views[5].X_B[:, :2] / 40)
    one = [*views[:5], replace(views[5], name="bent", pixel=bent), *views[6:]]
    solution = solve(one, "radtan", (WIDTH, HEIGHT))
    assert [view.name for view in solution.rejected] == ["bent"]
    alone = solve([*views[:5], *views[6:]], "radtan", (WIDTH, HEIGHT))
    np.testing.assert_allclose(solution.camera.intrinsics, alone.camera.intrinsics, atol=1e-4)
    assert solve(views, "radtan", (WIDTH, HEIGHT)).rejected == ()


def test_sharp_views_that_differ_are_chosen(seen: Callable[[str, str], Seen]) -> None:
    views = seen("pinhole", "checkerboard").views
    still = [replace(views[3], name=f"again {n}") for n in range(50)]
    chosen = choose_views([*views, *still], (WIDTH, HEIGHT))
    assert len(chosen) <= len(views) and len(set(chosen)) == len(chosen)
    assert len(choose_views([*still, *views], (WIDTH, HEIGHT), 7)) == 7
    corners = {round(view.pixel.mean() / 40) for view in views}
    few = choose_views(views, (WIDTH, HEIGHT), 9)
    assert len({round(views[n].pixel.mean() / 40) for n in few}) >= 0.7 * len(corners)
    assert choose_views([], (WIDTH, HEIGHT)) == []


def test_of_two_views_alike_the_sharp_one_is_chosen() -> None:
    renderer = Renderer(CAMERAS["pinhole"], BOARDS["checkerboard"])
    pose = Pose((0.5, 0.5), 600, (0.3, 0.2, 0.1))
    images = [renderer.render(pose, blur=blur) for blur in (2.5, 0.6, 4.0)]
    views = [BOARDS["checkerboard"].find("x", image) for image in images]
    found = [view for view in views if view is not None]
    sharpness = [view.sharpness for view in found]
    assert len(found) == 3 and sharpness[1] > 1.5 * sharpness[0] > 1.5 * sharpness[2]
    assert choose_views(found, (WIDTH, HEIGHT), 1) == [1]


# --- what is said ---------------------------------------------------------------------------------


def test_warnings_name_what_is_missing(seen: Callable[[str, str], Seen]) -> None:
    views = seen("pinhole", "checkerboard").views
    solution = solve(views, "pinhole", (WIDTH, HEIGHT))
    assert warnings_of(solution) == []
    upper_left = [v for v in views if v.pixel.mean(axis=0) @ [1 / WIDTH, 1 / HEIGHT] < 1.05]
    assert len(upper_left) >= FEWEST
    (line,) = warnings_of(solve(upper_left, "pinhole", (WIDTH, HEIGHT)))
    assert "bottom right" in line and "top left" not in line and "\n" not in line
    large = replace(solution, residuals=tuple(30 * r for r in solution.residuals))
    assert [line.split()[0] for line in warnings_of(large)] == ["reprojection"]
    flat = replace(solution, tilts=np.full(len(views), 0.1))
    assert "0 views are tilted" in warnings_of(flat)[0]
    unsure = replace(solution, sigma=solution.sigma | {"fx": 9.0})
    assert "2.6 % only" in warnings_of(unsure)[0]
    bent = replace(solution.camera, model="radtan", distortion=(-2.0, 0, 0, 0, 0))
    folded = replace(solution, camera=bent)
    assert "folds" in warnings_of(folded)[0]


def folder_of(images: list[np.ndarray], folder: Path) -> Path:
    folder.mkdir()
    for n, image in enumerate(images):
        cv2.imwrite(str(folder / f"{n:03d}.png"), image)
    return folder


def test_the_command_writes_what_calib_reads_and_a_picture(
    seen: Callable[[str, str], Seen], tmp_path: Path, run_cli: Command
) -> None:
    images, out = folder_of(seen("radtan", "charuco").images, tmp_path / "in"), tmp_path / "new"
    board = ("--board", "charuco:7x5", "--square", "40")
    done = run_cli("calibrate", images, *board, "-o", out / "camera.yaml")
    assert done.code == 0, done.err
    camera = load_calibration(out / "camera.yaml")
    np.testing.assert_allclose(camera.intrinsics, CAMERAS["radtan"].intrinsics, atol=1.5)
    for words in ("18 with the board", "RMS", f"fx {camera.intrinsics[0]:.2f} ±", "degrees", "%"):
        assert words in done.out
    text = (out / "camera.yaml").read_text()
    assert "standard deviations: fx" in text and "views used" in text and "px RMS" in text
    assert {p.name for p in out.iterdir()} == {"camera.yaml", "camera.png"}
    assert cv2.imread(str(out / "camera.png")).shape[1] > 1000
    source = open_source(images, calibration=str(out / "camera.yaml"))
    assert source.calibrated and source.raw_camera == camera


def test_a_run_takes_the_file(
    seen: Callable[[str, str], Seen], tmp_path: Path, run_cli: Command
) -> None:
    solution = solve(seen("pinhole", "checkerboard").views, "pinhole", (WIDTH, HEIGHT))
    sample = load_calibration(SAMPLE / "calibration.yaml")
    text = calibration_file(replace(solution, camera=sample), BOARDS["charuco"], "a: #b\n- c")
    (tmp_path / "camera.yaml").write_text(text)
    cut, out = cut_sample(tmp_path / "cut", range(20)), tmp_path / "out"
    (cut / "calibration.yaml").unlink()
    small = ("--set", "flow.long_side=200")
    done = run_cli("run", cut, "--calib", tmp_path / "camera.yaml", "--out", out, *small)
    assert done.code == 0, done.err
    report = json.loads((out / "report.json").read_text())
    assert report["focal"] is None and "camera.yaml" in report["calibration"]
    assert load_calibration(tmp_path / "camera.yaml") == sample


class Filmed:
    """An open camera that gives images, None where one fails, and none after the last."""

    rate, exposes = 0.0, False

    def __init__(self, images: list[np.ndarray | None]) -> None:
        self.left = images

    def read(self, stopped: threading.Event) -> Shot | None:
        raw = self.left.pop(0) if self.left else None
        return None if raw is None else Shot(raw, 0.0)

    def close(self) -> None:
        """Nothing is held."""


def test_videos_and_cameras_are_filmed(
    seen: Callable[[str, str], Seen],
    tmp_path: Path,
    run_cli: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = seen("pinhole", "charuco").images
    video = cv2.VideoWriter(
        str(tmp_path / "board.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 30, (WIDTH, HEIGHT)
    )
    for image in images:
        video.write(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    video.release()
    board = ("--board", "charuco:7x5", "--square", "40", "--model", "pinhole", "-o")
    done = run_cli("calibrate", tmp_path / "board.avi", *board, tmp_path / "a.yaml", "--every", "2")
    assert done.code == 0 and "9 images" in done.out, done.err

    rgb = [cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) for image in images]
    monkeypatch.setattr(CameraDevice, "open", lambda _: Filmed([None, *rgb[:5], None, *rgb[5:]]))
    clock = itertools.count()
    monkeypatch.setattr("slam.calibration.pipeline.time.monotonic", lambda: float(next(clock)))
    done = run_cli("calibrate", "--device", "3", "--seconds", "18.5", *board, tmp_path / "b.yaml")
    assert done.code == 0 and "16 images" in done.out, done.err
    np.testing.assert_allclose(
        load_calibration(tmp_path / "b.yaml").intrinsics, CAMERAS["pinhole"].intrinsics, atol=2
    )
    gone = run_cli("calibrate", "--device", "3", "--seconds", "99", *board, tmp_path / "c.yaml")
    expect_one_line(gone, "camera 3", "it gives none")
    film = ("--device", tmp_path / "board.avi", "--every", "2", "--seconds", "999")  # to its end
    played = run_cli("calibrate", *film, *board, tmp_path / "d.yaml")
    assert played.code == 0 and "9 images" in played.out, played.err


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere cameras are not listed")
def test_a_camera_that_is_not_there_is_said_with_those_that_are(
    tmp_path: Path, run_cli: Command
) -> None:
    board = ("--board", "charuco:7x5", "-o", tmp_path / "c.yaml")
    expect_one_line(run_cli("calibrate", "--device", "99", *board), "camera 99", "there are: ")
    expect_one_line(run_cli("calibrate", "--device", "rtps", *board), "rtps", "slam live --list")


# --- bad input ------------------------------------------------------------------------------------


def test_where_there_is_no_board_the_error_says_what_there_is(
    seen: Callable[[str, str], Seen], tmp_path: Path, run_cli: Command
) -> None:
    noise = [np.random.default_rng(n).integers(0, 255, (HEIGHT, WIDTH), np.uint8) for n in range(3)]
    out = ("-o", tmp_path / "camera.yaml")
    for kind in ("checkerboard:9x6", "charuco:5x7"):
        if not (tmp_path / "noise").is_dir():
            folder_of(noise, tmp_path / "noise")
        result = run_cli("calibrate", tmp_path / "noise", "--board", kind, *out)
        expect_one_line(result, kind.split(":")[1], "found none in 3 images", "no other board")
    boards = folder_of(seen("pinhole", "checkerboard").images[:3], tmp_path / "boards")
    result = run_cli("calibrate", boards, "--board", "checkerboard:10x7", *out)
    expect_one_line(result, "found none in 3 images", "look like checkerboard:9x6")
    boards = folder_of(seen("pinhole", "charuco").images[:3], tmp_path / "charuco")
    wrong = ("--board", "charuco:7x5", "--dictionary", "DICT_5x5_100")
    expect_one_line(run_cli("calibrate", boards, *wrong, *out), "5X5_100", "4X4_1000")
    assert not (tmp_path / "camera.yaml").exists()


def test_bad_input_is_one_line(
    seen: Callable[[str, str], Seen], tmp_path: Path, run_cli: Command
) -> None:
    images = seen("pinhole", "charuco").images
    few = folder_of([*images[:4], *images[:4]], tmp_path / "few")
    mixed = folder_of([*images[:3], images[3][:200]], tmp_path / "mixed")
    board = ("--board", "charuco:7x5", "--square", "40")
    out = ("-o", tmp_path / "camera.yaml")

    def expect(*words: str, of: tuple[str | Path, ...]) -> None:
        expect_one_line(run_cli("calibrate", *of), *words)

    expect("6 or more views", "got 4 from 8 of 8", of=(few, *board, *out))
    expect("400x300", "400x200", of=(mixed, *board, *out))
    expect("no such file", of=(tmp_path / "nowhere", *board, *out))
    (tmp_path / "file").touch()
    expect("file", of=(few, *board, "-o", tmp_path / "file" / "camera.yaml"))
    (tmp_path / "taken.yaml").mkdir()
    expect("the folder", "taken", of=(few, *board, "-o", tmp_path / "taken.yaml"))
    expect(".yaml", "camera.txt", of=(few, *board, "-o", tmp_path / "camera.txt"))
    expect("inner corners", "9by6", of=(few, "--board", "checkerboard:9by6", *out))
    expect("3 or more", "9x2", of=(few, "--board", "checkerboard:9x2", *out))
    expect("radtan", "fisheye", of=(few, *board, "--model", "fisheye", *out))
    expect("below a square's", "45", of=(few, *board, "--marker", "45", *out))
    expect("dictionary", "4X4_50", "9X9", of=(few, *board, "--dictionary", "9x9", *out))
    expect("a larger one", of=(few, "--board", "charuco:14x10", *out))
    expect("above 0 mm", of=(few, "--board", "checkerboard:9x6", "--square", "0", *out))
    expect("every", "got 0", of=(few, *board, "--every", "0", *out))
    expect("SOURCE or --device", "neither", of=(*board, *out))
    expect("SOURCE or --device", "both", of=(few, "--device", "0", *board, *out))
    help_text = run_cli("calibrate", "--help").out
    assert "INNER CORNERS" in help_text and "SQUARES" in help_text


def test_contradicting_views_alone_are_an_error(seen: Callable[[str, str], Seen]) -> None:
    views = seen("pinhole", "checkerboard").views[:FEWEST]
    bent = replace(views[0], pixel=views[0].pixel + 5 * np.sin(views[0].X_B[:, :2] / 40))
    with pytest.raises(ValueError, match="got 5, and 1 that contradict"):
        solve([bent, *views[1:]], "pinhole", (WIDTH, HEIGHT))


def test_boards_are_read_as_they_are_written() -> None:
    assert parse_board(" Checkerboard:9x6") == Board("checkerboard", 9, 6)
    board = parse_board("charuco:5x7", 20, 15, "dict_5x5_50")
    assert (board.columns, board.rows, board.dictionary) == (5, 7, "5X5_50")
    assert parse_board("charuco:5x7", 20).marker_size == 15
