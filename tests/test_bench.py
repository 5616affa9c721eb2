"""`slam bench speed` and `kernels`: the looped source, growth, memory, twins, and their output."""

from __future__ import annotations

import gc
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import CommandResult
from sequences import SAMPLE, cut_sample

from slam.bench import kernel_cases, twins_dense
from slam.bench.growth import SPAN, backend_growth, slope
from slam.bench.kernels import difference
from slam.bench.speed import EVERYTHING, solving_everything
from slam.config import Config
from slam.evaluation import evaluate
from slam.kernels import dense_ba_step
from slam.playing import playing
from slam.sources import open_source
from slam.sources.looped import LoopedSource
from slam.sources.realtime import RealTime
from slam.timing import KEPT, Timings
from slam.trajectory import Trajectory

Command = Callable[..., CommandResult]

# --- looped source -------------------------------------------------------------------------------


def test_a_looped_source_goes_forwards_and_backwards(tmp_path: Path) -> None:
    stamps = [10.0, 10.1, 10.4, 10.5]
    source = open_source(cut_sample(tmp_path / "s", [0, 5, 10, 15], times=stamps))
    looped = LoopedSource(source, 3)
    there = [image.rgb for image in source.images()]
    images = list(looped.images())
    assert [image.index for image in images] == list(range(10)) == looped.indices.tolist()
    for image, place in zip(images, [0, 1, 2, 3, 2, 1, 0, 1, 2, 3], strict=True):
        assert torch.equal(image.rgb, there[place])
    times = [10.0, 10.1, 10.4, 10.5, 10.6, 10.9, 11.0, 11.1, 11.4, 11.5]
    assert looped.times == pytest.approx(times)
    assert [image.time for image in images] == looped.times.tolist()
    assert [image.seconds for image in images] == pytest.approx(times)
    assert len(looped) == 10


@pytest.mark.parametrize("passes", [1, 2, 5])
def test_its_ground_truth_is_passed_as_often(tmp_path: Path, passes: int) -> None:
    """Each image's true pose is that of the same image in the source."""
    source = open_source(cut_sample(tmp_path / "s", range(0, 60, 5)))
    looped = LoopedSource(source, passes)
    assert looped.ground_truth is not None and source.ground_truth is not None
    assert (np.diff(looped.ground_truth.times) > 0).all()
    poses = source.ground_truth.poses[looped.places]
    exact = Trajectory(looped.times, poses)
    result = evaluate(exact, looped.ground_truth, frames=looped.times, align="none", max_dt=1e-6)
    assert result.ate_unaligned.max < 1e-9
    assert result.completeness is not None and result.completeness.fraction == 1


def test_ground_truth_at_other_times_is_turned_round_too(tmp_path: Path) -> None:
    folder = cut_sample(tmp_path / "s", range(4), times=[10.0, 11.0, 12.0, 13.0])
    rows = [f"{t} {t} 0 0 0 0 0 1" for t in (9.0, 9.9, 10.25, 11.5, 12.75, 13.1)]
    (folder / "groundtruth.txt").write_text("\n".join(rows))
    truth = LoopedSource(open_source(folder), 2).ground_truth
    assert truth is not None
    assert truth.times == pytest.approx([10.25, 11.5, 12.75, 13.25, 14.5, 15.75])
    assert truth.poses[:, 0] == pytest.approx([10.25, 11.5, 12.75, 12.75, 11.5, 10.25])


def test_a_damaged_image_is_left_out_each_time_it_comes(tmp_path: Path) -> None:
    folder = cut_sample(tmp_path / "s", range(4), change=lambda _, image: image)
    (folder / "rgb" / "0002.jpg").write_bytes(b"no image")
    looped = LoopedSource(open_source(folder), 3)
    assert [image.index for image in looped.images()] == [0, 1, 3, 5, 6, 7, 9]
    assert len(looped.skipped) == 1


def test_what_cannot_be_played_backwards_is_refused(tmp_path: Path) -> None:
    video = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for value in range(3):
        writer.write(np.full((48, 64, 3), 80 * value, np.uint8))
    writer.release()
    with pytest.raises(ValueError, match="wanted a folder of images to play backwards, got a vid"):
        LoopedSource(open_source(video), 2)
    one = open_source(cut_sample(tmp_path / "s", [0]))
    with pytest.raises(ValueError, match=r"at least 1 pass through 2 images .* got 2 through 1"):
        LoopedSource(one, 2)


# --- timings and growth --------------------------------------------------------------------------


def test_timings_count_everything_and_keep_the_latest() -> None:
    timings = Timings()
    for number in range(KEPT + 10):
        timings.note("a", 0.001 if number < KEPT else 0.002, number)
    times = timings.stages()["a"]
    assert times.count == KEPT + 10
    assert times.total_s == pytest.approx(0.001 * KEPT + 0.02)
    assert times.p50_ms == pytest.approx(1.0)
    calls = timings.calls("a")
    assert (len(calls), calls[0].key, calls[-1].key) == (KEPT, 10, KEPT + 9)
    assert timings.calls("never") == [] and timings.total_seconds("never") == 0


def test_timings_from_several_threads_lose_nothing() -> None:
    timings = Timings()

    def work() -> None:
        for _ in range(500):
            with timings.measure("shared"):
                pass

    threads = [threading.Thread(target=work, name=f"worker {n}") for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert timings.stages()["shared"].count == 2000
    assert timings.stages()["shared"].thread.startswith("worker")


def test_growth_is_the_mean_before_a_mark_and_the_slope() -> None:
    timings = Timings()
    for number in range(120):  # 10 ms and 0.2 ms more with each keyframe
        timings.note("backend edges", 1e-3 * (10 + 0.2 * number), number)
        timings.note("backend window" if number % 10 else "backend focal", 5e-3, number)
        timings.note("flow", 1.0, number)
    growth = {g.stage: g for g in backend_growth(timings, (50, 100, 200))}
    assert set(growth) == {"edges", "window", "focal", "together"}
    middle = (50 - SPAN + 49) / 2
    assert growth["edges"].means == pytest.approx({50: 10 + 0.2 * middle, 100: 20 + 0.2 * middle})
    assert growth["edges"].slope == pytest.approx(20)
    assert growth["window"].slope == pytest.approx(0, abs=1e-9)
    assert growth["together"].means[50] == pytest.approx(growth["edges"].means[50] + 5)


def test_a_keyframe_made_again_counts_once() -> None:
    """A start that is discarded: the numbers begin again."""
    timings = Timings()
    for milliseconds in (90, 10):
        for number in range(5):
            timings.note("backend edges", 1e-3 * milliseconds, number)
    assert backend_growth(timings, (5,))[0].means == pytest.approx({5: 10})


def test_few_points_have_no_slope() -> None:
    assert slope([(n, n) for n in range(7)]) is None
    assert slope([(n, 3.0 * n) for n in range(8)]) == pytest.approx(3)


# --- speed ---------------------------------------------------------------------------------------


def test_speed_of_a_looped_source(run_cli: Command, tmp_path: Path) -> None:
    source = cut_sample(tmp_path / "s", range(0, 60, 5))
    file = tmp_path / "speed.json"
    options = ["--loops", "2", "--keyframes", "3,500", "--against-full", "--json", file]
    small = ["--set", "flow.long_side=160", "--set", "keyframes.flow=0.05", "-q"]
    result = run_cli("bench", "speed", source, *options, *small)
    assert result.code == 0, result.err
    assert "23 of 23 frames in 2 passes" in result.out
    for words in ("flow", "backend window", "wait for backend", "final adjustment", "frames/s",
                  "p95", "a keyframe     holds", "not reached",
                  "all keyframes in the window:"):  # fmt: skip
        assert words in result.out
    content = json.loads(file.read_text())
    assert (content["processed"], content["passes"], content["threads"]) == (23, 2, 2)
    stages = {row["stage"]: row for row in content["stages"]}
    assert stages["encode"]["count"] == 23
    assert stages["encode"]["thread"] == stages["wait for backend"]["thread"] == "frontend"
    assert stages["backend edges"]["thread"] == "backend"
    waiting = 1  # the last keyframe may be at work when the loop ends
    assert 0 <= content["keyframes"] - 1 - stages["backend edges"]["count"] <= waiting
    assert stages["final adjustment"]["share_of_loop"] is None
    frontend = [row["share_of_loop"] for row in content["stages"] if row["thread"] == "frontend"]
    assert 0.5 < sum(share for share in frontend if share is not None) <= 1.0
    assert content["frontend"]["p95_ms"] <= content["feed"]["p95_ms"]
    assert content["loop_seconds"] < content["total_seconds"]
    assert 0 < content["errors"]["loop"] < 0.05 * content["errors"]["path_length"]
    assert 0 < content["errors"]["final"] < 0.05 * content["errors"]["path_length"]
    assert content["against_full"]["keyframes"] >= 3
    edges = next(g for g in content["backend_per_keyframe"] if g["stage"] == "edges")
    assert list(edges["mean_ms"]) == ["3"]
    grid = (160 // 4) * (120 // 4)
    images = 160 * 120 * 4 + 4 * grid
    assert content["keyframe_memory_mb"]["images"] == pytest.approx(images / 1e6)


def decoders() -> list[str]:
    """Threads that decode images now."""
    return [t.name for t in threading.enumerate() if t.name.startswith("slam-prefetch")]


def test_images_are_played_without_walking_through_what_is_loaded(tmp_path: Path) -> None:
    """By `slam run` and `slam bench speed` alike; the thread that decodes ends with them."""
    source = open_source(cut_sample(tmp_path / "cut", range(9)))
    gc.unfreeze()
    for playable in (source, LoopedSource(source, 2)):
        with playing(playable.images(), playable.total) as (images, bar):
            assert gc.get_freeze_count() > 0 and bar.total == len(playable)
            assert next(images).index == 0 and len(decoders()) == 1
        assert not decoders()
        gc.unfreeze()


def test_threads_take_shorter_turns_in_real_time_and_only_then(tmp_path: Path) -> None:
    source, usual = open_source(cut_sample(tmp_path / "cut", range(3))), sys.getswitchinterval()
    with playing(source.images(), source.total):
        assert sys.getswitchinterval() == usual
    live = RealTime(source.images())
    with playing(live, source.total) as (images, _):
        assert sys.getswitchinterval() < usual / 2
        assert next(images).index == 0
    assert sys.getswitchinterval() == usual
    gc.unfreeze()


def test_speed_in_real_time_counts_drops(run_cli: Command, tmp_path: Path) -> None:
    times = [100 + 0.002 * n for n in range(12)]  # 500 Hz: most are dropped
    source = cut_sample(tmp_path / "s", range(0, 36, 3), times=times)
    file = tmp_path / "speed.json"
    result = run_cli("bench", "speed", source, "--realtime", "--json", file, "-q")
    assert result.code == 0, result.err
    content = json.loads(file.read_text())
    assert content["dropped"] > 0
    assert content["processed"] + content["dropped"] == content["frames"] == 12
    assert content["capture"]["p50_ms"] > 0
    assert f"dropped        {content['dropped']} of 12 images" in result.out


def test_solving_everything_changes_the_window_only() -> None:
    config = Config()
    full = solving_everything(config)
    assert full.bundle_adjustment.window == EVERYTHING
    window = config.bundle_adjustment.window
    assert replace(
        full, bundle_adjustment=replace(full.bundle_adjustment, window=window)
    ) == config  # fmt: skip


@pytest.mark.parametrize("option", [["--loops", "0"], ["--loops", "x"], ["--keyframes", "5,"]])
def test_wrong_options_are_status_2(run_cli: Command, option: list[str]) -> None:
    result = run_cli("bench", "speed", SAMPLE, *option)
    assert result.code == 2
    assert "wanted a whole number of at least 1" in result.err


@pytest.mark.parametrize("benchmark", ["speed", "suite", "kernels", "network"])
def test_every_benchmark_has_help(run_cli: Command, benchmark: str) -> None:
    result = run_cli("bench", benchmark, "--help")
    assert result.code == 0
    assert result.out.startswith(f"usage: slam bench {benchmark}")
    assert "--verbose" in result.out


def test_bench_alone_says_what_there_is(run_cli: Command) -> None:
    assert run_cli("bench").code == 2
    said = run_cli("bench", "--help").out
    assert all(name in said for name in ("speed", "suite", "kernels", "network"))


# --- kernels -------------------------------------------------------------------------------------


def test_twins_agree_with_the_kernels(device: torch.device) -> None:
    cases = list(kernel_cases.kernel_cases(device, scale=0.25))
    assert {case.kernel for case in cases} == {
        "pose_normal_equations",
        "solve_pose",
        "triangulate_inverse_depth",
        "fuse_inverse_depth",
        "warp_inverse_depth",
        "ray_normal_equations",
        "pixel_depth_normal_equations",
        "dense_ba_cost",
        "dense_ba_step",
        "unroll_target",
        "refine_flow",
        "match_rays",
        "refine_matches",
    }
    for case in cases:
        native, twin = case.native(), case.twin()
        assert all(bool(torch.isfinite(value).all()) and bool(value.any()) for value in native)
        apart = difference(native, twin)
        assert apart < (5e-3 if case.kernel.startswith("dense") else 1e-3), (case, apart)


def test_the_focal_step_of_the_twin_agrees(device: torch.device) -> None:
    """Poses that move differ with the focal length free: the twin's follow."""
    problem = kernel_cases.dense_problem(device, 0.25)
    free = replace(problem, refine_focal=True)
    options = {"damping": 1e-4, "depth_damping": 0.0, "min_value": 0.01, "max_value": 100.0}
    held, moved = dense_ba_step(problem, **options), dense_ba_step(free, **options)
    twist, _ = twins_dense.dense_ba_step(free, **options)
    change = float((held.twist - moved.twist).norm())
    assert float((twist - moved.twist).norm()) < 0.1 * change


def test_a_difference_is_seen() -> None:
    one = torch.ones(4)
    assert difference([one, one], [one, 1.01 * one]) == pytest.approx(0.01 / 1.01, rel=1e-4)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        difference([one, one], [one])


def test_kernel_times_are_printed_and_written(
    run_cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slam.bench import kernels

    monkeypatch.setattr(kernels, "SECONDS", 0.0)
    monkeypatch.setattr(kernels, "COPY", 1 << 20)
    real = kernel_cases.kernel_cases
    monkeypatch.setattr(kernels, "kernel_cases", lambda device, _: real(device, 0.2))
    threads = torch.get_num_threads()
    result = run_cli("bench", "kernels", "--json", tmp_path / "k.json", "--threads", "1")
    assert result.code == 0, result.err
    assert torch.get_num_threads() == threads
    content = json.loads((tmp_path / "k.json").read_text())
    assert content["threads"] == 1 and content["copy_gigabytes_per_s"] > 0
    for row in content["kernels"]:
        assert row["kernel"] in result.out
        assert row["times_faster"] == pytest.approx(row["torch_ms"] / row["native_ms"])
        rate = row["megabytes"] / row["native_ms"]
        assert row["gigabytes_per_s"] == pytest.approx(rate)
        matching = row["kernel"] in ("match_rays", "refine_matches")
        assert (row["matches_per_s"] > 1e4) == matching
        assert row["difference"] < 5e-3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("benchmark", ["kernels", "network"])
def test_a_gpu_that_is_not_there_is_one_line(run_cli: Command, benchmark: str) -> None:
    result = run_cli("bench", benchmark, "--device", "cuda")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "--device: wanted a CUDA GPU, got none" in result.err
