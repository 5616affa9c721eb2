"""Sources: selection, decoding ahead, damaged files, calibration choice, and bad input."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from slam.camera import Camera, save_calibration
from slam.sources import Source, open_source
from slam.sources.base import prefetch

SIZE = (64, 48)


def encode(suffix: str, size: tuple[int, int] = SIZE, value: int = 0) -> bytes:
    noise = np.random.default_rng(value).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return cv2.imencode(suffix, noise)[1].tobytes()


def build(root: Path, count: int = 6, suffix: str = ".png") -> Path:
    """A recording in TUM's layout without bag name."""
    (root / "rgb").mkdir(parents=True)
    for i in range(count):
        (root / f"rgb/{i}{suffix}").write_bytes(encode(suffix, value=i))
    lines = [f"{1 + i / 4} rgb/{i}{suffix}\n" for i in range(count)]
    (root / "rgb.txt").write_text("".join(lines))
    return root


def prefetch_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("slam-prefetch")]


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# Selection


def test_selection_keeps_indices_of_the_full_list(tmp_path: Path) -> None:
    source = open_source(build(tmp_path), start=1, end=6, stride=2)
    images = list(source.images())
    assert len(source) == 3
    assert [image.index for image in images] == [1, 3, 5]
    assert [image.time for image in images] == source.times.tolist() == [1.25, 1.75, 2.25]
    noise = cv2.imdecode(np.frombuffer(encode(".png", value=3), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(images[1].rgb.numpy()[..., ::-1], noise)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"start": 6}, "at least one of the 6 images .* got none from start 6"),
        ({"end": 0}, "at least one"),
        ({"start": 3, "end": 3}, "at least one"),
        ({"start": -1}, "start >= 0"),
        ({"end": -1}, "end >= 0"),
        ({"stride": 0}, "stride >= 1"),
    ],
)
def test_empty_or_negative_selection_is_refused(
    tmp_path: Path, selection: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(build(tmp_path), **selection)


# Decoding ahead


def test_prefetch_keeps_order_and_stays_a_bounded_number_ahead() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        return item * item

    results = prefetch(work, range(50), ahead=3)
    assert [next(results), next(results)] == [0, 1]
    assert len(started) <= 5
    assert list(results) == [i * i for i in range(2, 50)]
    assert not prefetch_threads()


def test_the_thread_starts_with_the_first_image_and_ends_when_closed_early(tmp_path: Path) -> None:
    images = open_source(build(tmp_path)).images()
    assert not prefetch_threads()
    next(images)
    assert len(prefetch_threads()) == 1
    images.close()  # type: ignore[attr-defined]
    assert not prefetch_threads()


def test_the_thread_ends_when_the_consumer_raises(tmp_path: Path) -> None:
    source = open_source(build(tmp_path))

    def consume() -> None:
        for image in source.images():
            raise RuntimeError(f"consumer {image.index}")

    with pytest.raises(RuntimeError, match="consumer 0"):
        consume()
    assert not prefetch_threads()


def test_an_error_in_the_thread_is_raised_in_the_consumer(tmp_path: Path) -> None:
    source = open_source(build(tmp_path))
    (tmp_path / "rgb/2.png").unlink()
    images = source.images()
    assert [next(images).index, next(images).index] == [0, 1]
    with pytest.raises(FileNotFoundError, match=r"2\.png"):
        next(images)
    assert not prefetch_threads()


# Damaged and unfitting images


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.98])
def test_truncated_images_are_skipped_with_one_warning(
    tmp_path: Path, suffix: str, kept: float, caplog: pytest.LogCaptureFixture
) -> None:
    path = build(tmp_path, suffix=suffix)
    for i in (0, 3):
        file = path / f"rgb/{i}{suffix}"
        file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    source = open_source(path)
    with caplog.at_level(logging.WARNING):
        assert [image.index for image in source.images()] == [1, 2, 4, 5]
        assert len(list(source.images())) == 4
    assert source.skipped == [str(path / f"rgb/{i}{suffix}") for i in (0, 3)]
    assert sum("damaged" in record.message for record in caplog.records) == 2


def test_a_thumbnail_inside_a_truncated_jpeg_does_not_make_it_whole(tmp_path: Path) -> None:
    path = build(tmp_path, suffix=".jpg")
    thumbnail, whole = encode(".jpg", (16, 16)), encode(".jpg", value=1)
    length = (len(thumbnail) + 8).to_bytes(2, "big")
    with_thumbnail = whole[:2] + b"\xff\xe1" + length + b"Exif\0\0" + thumbnail + whole[2:]
    (path / "rgb/1.jpg").write_bytes(with_thumbnail)
    (path / "rgb/2.jpg").write_bytes(with_thumbnail[:-200])
    (path / "rgb/3.jpg").write_bytes(whole + b"\0" * 64)  # padded by the camera: whole
    assert [image.index for image in open_source(path).images()] == [0, 1, 3, 4, 5]


def test_a_file_that_is_no_image_is_skipped_and_all_of_them_are_refused(tmp_path: Path) -> None:
    path = build(tmp_path, count=2)
    (path / "rgb/0.png").write_bytes(b"not an image")
    assert [image.index for image in open_source(path).images()] == [1]
    (path / "rgb/1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"0\.png: damaged, and so is every image after it"):
        open_source(path)


def test_an_image_of_another_size_is_named_with_both_sizes(tmp_path: Path) -> None:
    path = build(tmp_path)
    (path / "rgb/4.png").write_bytes(encode(".png", (48, 64)))
    images = open_source(path).images()
    with pytest.raises(ValueError, match=r"4\.png: wanted .*64x48.* got 48x64"):
        list(images)


def test_grey_images_come_in_three_channels(tmp_path: Path) -> None:
    path = build(tmp_path, count=1)
    grey = np.random.default_rng(0).integers(0, 255, (48, 64), np.uint8)
    cv2.imwrite(str(path / "rgb/0.png"), grey)
    (image,) = open_source(path).images()
    np.testing.assert_array_equal(image.rgb, np.stack([grey] * 3, axis=-1))


# Calibration


def test_named_and_given_calibrations_are_used_and_undistort(tmp_path: Path) -> None:
    path = build(tmp_path / "data")
    raw = Camera("radtan", *SIZE, (60, 60, 32, 24), (-0.3, 0.1, 0, 0, 0))
    save_calibration(tmp_path / "mine.yaml", raw)
    source = open_source(path, calibration=str(tmp_path / "mine.yaml"))
    assert source.calibrated and source.raw_camera == raw
    assert source.calibration_source.endswith("mine.yaml")
    assert source.camera.model == "pinhole" and source.camera.intrinsics != raw.intrinsics
    with_distortion = next(iter(open_source(path, calibration="none").images())).rgb
    assert (next(iter(source.images())).rgb != with_distortion).any()


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ("tum-fr1", "for 640x480 images, these are 64x48"),
        ("tum-fr7", "'tum-fr7': wanted a file .* tum-fr1"),
    ],
)
def test_unfitting_calibrations_are_refused(tmp_path: Path, calibration: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        open_source(build(tmp_path), calibration=calibration)
    one_line(error)


def test_a_missing_calibration_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        open_source(build(tmp_path), calibration="none.yaml")


@pytest.mark.parametrize("fov", [0.0, 180.0, 179.0, float("nan")])
def test_impossible_field_of_view_is_refused(tmp_path: Path, fov: float) -> None:
    with pytest.raises(ValueError):
        open_source(build(tmp_path), fov=fov)


# Bad input at open


@pytest.mark.parametrize(("second", "third"), [("1.25", "1.25"), ("1.5", "1.25")])
def test_time_standing_still_or_going_back_is_named_with_its_line(
    tmp_path: Path, second: str, third: str
) -> None:
    path = build(tmp_path, count=3)
    lines = ["# header", "1.0 rgb/0.png", f"{second} rgb/1.png", f"{third} rgb/2.png"]
    (path / "rgb.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"rgb\.txt:4: .* got {third} after {second}") as error:
        open_source(path)
    one_line(error)


def test_missing_images_are_named_with_their_list(tmp_path: Path) -> None:
    path = build(tmp_path)
    (path / "rgb/2.png").unlink()
    (path / "rgb/5.png").unlink()
    wanted = r"2\.png: no such file, but .*rgb\.txt names it \(2 of 6 files are missing\)"
    with pytest.raises(FileNotFoundError, match=wanted) as error:
        open_source(path)
    one_line(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wanted 'time file' lines, got none"),
        ("# only a comment\n", "wanted 'time file' lines, got none"),
        ("1.0\n", r"rgb\.txt:1: wanted 'time file', got '1\.0'"),
        ("now rgb/0.png\n", r"rgb\.txt:1: wanted a number, got 'now'"),
        ("nan rgb/0.png\n", r"rgb\.txt:1: wanted a finite number"),
    ],
)
def test_broken_lists_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    path = build(tmp_path)
    (path / "rgb.txt").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        open_source(path)
    one_line(error)


def test_binary_lists_are_refused(tmp_path: Path) -> None:
    path = build(tmp_path)
    (path / "rgb.txt").write_bytes(encode(".png"))
    with pytest.raises(ValueError, match="wanted text, got binary data"):
        open_source(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1 0 0 0 0 0 0", "groundtruth.txt:1: wanted 8 numbers"),
        ("1 0 0 nan 0 0 0 1", "groundtruth.txt:1: wanted a finite number"),
        ("1 0 0 0 0 0 0 0", "wanted unit quaternions, got norm 0"),
    ],
)
def test_broken_ground_truth_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = build(tmp_path)
    (path / "groundtruth.txt").write_text(row)
    with pytest.raises(ValueError, match=message):
        open_source(path)


def test_folders_with_nothing_known_say_what_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no recording in this folder; wanted .*rgb\.txt"
    ) as error:
        open_source(tmp_path)
    one_line(error)
    build(tmp_path / "inner")
    with pytest.raises(ValueError, match="give the path of a recording in it: inner"):
        open_source(tmp_path)


def test_paths_that_are_no_recording_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_source(tmp_path / "nowhere")
    text = tmp_path / "words.mp4"
    text.write_text("this is no video " * 100)
    with pytest.raises(ValueError, match=r"words\.mp4: wanted a video") as error:
        open_source(text)
    one_line(error)
    (tmp_path / "one.png").write_bytes(encode(".png"))
    with pytest.raises(ValueError, match="got one image"):
        open_source(tmp_path / "one.png")


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("tumm", "format: wanted auto, euroc, .*, got 'tumm'"),
        ("video", "wanted a video file, got a folder"),
        ("euroc", "mav0/cam0/data.csv"),
        ("kitti", "image_2"),
        ("7scenes", "frame-000000"),
        ("icl", r"rgb\.txt"),
        ("folder", "png or jpg"),
    ],
)
def test_a_format_that_does_not_fit_is_refused(tmp_path: Path, format: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        open_source(tmp_path / "empty", format=format)
    one_line(error)


def test_damaged_depth_maps_are_skipped_and_colour_ones_refused(tmp_path: Path) -> None:
    path = build(tmp_path, count=2)
    (path / "a.png").write_bytes(cv2.imencode(".png", np.ones((48, 64), np.uint16))[1][:-20])
    (path / "b.png").write_bytes(encode(".png"))
    (path / "depth.txt").write_text("1.0 a.png\n1.25 b.png\n")
    source: Source = open_source(path)
    assert source.read_depth(0) is None and source.skipped == [str(path / "a.png")]
    with pytest.raises(ValueError, match="wanted a 16-bit depth map, got uint8"):
        source.read_depth(1)
