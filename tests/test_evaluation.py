"""Trajectory errors: equal to evo's, unchanged by what must not matter."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from slam.evaluation import (
    evaluate,
    evaluate_files,
    format_table,
    read_frame_times,
    transform_points,
    transform_trajectory,
    umeyama,
)
from slam.evaluation.metrics import pairs_per_second
from slam.trajectory import Trajectory, write_tum

SIM3 = np.array([0.4, -1.1, 2.0, 0.1, -0.7, 0.1, 0.7, 0.45])  # norm of the quaternion: 1

# evo 1.38.1 on the files of `recipe` (numbers: rmse mean median std min max):
#   evo_ape tum truth.txt estimate.txt [-as | -a | -as -r angle_deg] --t_max_diff 0.02
#   evo_rpe tum truth.txt estimate.txt -as -d 1 -u [f | m] [-r angle_deg] --t_max_diff 0.02
EVO = {
    "ape -as": [0.020486687, 0.019071347, 0.0197025, 0.007482516, 0.000425923, 0.033449792],
    "ape -a": [1.017094872, 0.981549611, 1.000863543, 0.266537687, 0.331437886, 1.335991741],
    "ape": [2.938597113, 2.912604238, 2.854025961, 0.389986595, 2.135602782, 3.537396075],
    "ape -as -r angle_deg": [
        0.706751209,
        0.686672873,
        0.705581317,
        0.167265169,
        0.05963038,
        1.102963869,
    ],
    "rpe -as -u f": [0.028989158, 0.02642408, 0.027818252, 0.011922218, 0.00318508, 0.050174496],
    "rpe -as -u f -r angle_deg": [
        0.902956177,
        0.860505108,
        0.910354477,
        0.273607047,
        0.157323364,
        1.354186205,
    ],
    "rpe -as -u m": [0.022742318, 0.021134086, 0.021955091, 0.008400204, 0.006924071, 0.032796437],
    "rpe -as -u m -r angle_deg": [
        0.967269377,
        0.929732299,
        0.98711206,
        0.266848083,
        0.552504561,
        1.413642758,
    ],
}


def recipe() -> tuple[Trajectory, Trajectory]:
    """(estimate at 30 Hz in its own world, truth at 100 Hz): a walk of some metres, with noise."""

    def path(t: np.ndarray) -> np.ndarray:
        positions = [2 * np.sin(0.7 * t), 1.5 * np.sin(1.1 * t + 1), 0.5 * np.cos(0.9 * t)]
        turns = [0.3 * np.sin(0.8 * t), 0.5 * t, 0.2 * np.cos(1.3 * t)]
        quaternions = Rotation.from_rotvec(np.stack(turns, axis=1)).as_quat()
        return np.concatenate([np.stack(positions, axis=1), quaternions], axis=1)

    t_true = np.arange(0, 8, 0.01)
    t = 0.2 + np.arange(250) / 30 + 0.004 * np.sin(np.arange(250))
    exact = path(t)
    row = np.arange(250)[:, None]
    noise = 0.02 * np.sin(row * [12.9, 78.2, 37.7] + [0.1, 0.2, 0.3])
    turn = Rotation.from_rotvec(0.01 * np.sin(row * [45.1, 94.7, 21.3]))
    quaternions = (Rotation.from_quat(exact[:, 3:]) * turn).as_quat()
    noisy = Trajectory(t, np.concatenate([exact[:, :3] + noise, quaternions], axis=1))
    return transform_trajectory(SIM3, noisy), Trajectory(t_true, path(t_true))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    estimate, truth = recipe()
    write_tum(tmp_path / "estimate.txt", estimate)
    write_tum(tmp_path / "truth.txt", truth)
    return tmp_path / "estimate.txt", tmp_path / "truth.txt"


def statistics(files: tuple[Path, Path]) -> dict[str, list[float]]:
    result = evaluate_files(*files)
    assert result.rotation is not None
    assert result.rpe_metre is not None
    named = {
        "ape -as": result.ate_sim3,
        "ape -a": result.ate_se3,
        "ape": result.ate_unaligned,
        "ape -as -r angle_deg": result.rotation,
        "rpe -as -u f": result.rpe_frame.translation,
        "rpe -as -u f -r angle_deg": result.rpe_frame.rotation,
        "rpe -as -u m": result.rpe_metre.translation,
        "rpe -as -u m -r angle_deg": result.rpe_metre.rotation,
    }
    names = ("rmse", "mean", "median", "std", "min", "max")
    return {key: [getattr(value, name) for name in names] for key, value in named.items()}


def test_errors_equal_evos_stored_values(files: tuple[Path, Path]) -> None:
    ours = statistics(files)
    assert ours.keys() == EVO.keys()
    for key, expected in EVO.items():
        np.testing.assert_allclose(ours[key], expected, atol=1e-6, rtol=0, err_msg=key)


def test_errors_equal_evo_live(files: tuple[Path, Path]) -> None:
    reason = "evo is not installed; its stored values are compared"
    names = ("main_ape", "main_rpe", "core.sync", "core.metrics", "tools.file_interface")
    main_ape, main_rpe, sync, evo_metrics, file_interface = (
        pytest.importorskip(f"evo.{name}", reason=reason) for name in names
    )
    estimate, truth = (file_interface.read_tum_trajectory_file(path) for path in files)
    truth, estimate = sync.associate_trajectories(truth, estimate, max_diff=0.02)
    translation = evo_metrics.PoseRelation.translation_part
    relations = {"": translation, " -r angle_deg": evo_metrics.PoseRelation.rotation_angle_deg}
    units = {"f": evo_metrics.Unit.frames, "m": evo_metrics.Unit.meters}

    def paths() -> list[Any]:
        return [deepcopy(truth), deepcopy(estimate)]  # evo changes what it is given

    live = {"ape": main_ape.ape(*paths(), translation)}
    live["ape -a"] = main_ape.ape(*paths(), translation, align=True)
    for name, relation in relations.items():
        both = {"align": True, "correct_scale": True}
        live[f"ape -as{name}"] = main_ape.ape(*paths(), relation, **both)
        for letter, unit in units.items():
            interval = {"delta": 1, "delta_unit": unit}
            live[f"rpe -as -u {letter}{name}"] = main_rpe.rpe(
                *paths(), relation, **interval, **both
            )
    ours = statistics(files)
    assert ours.keys() == live.keys()
    for key, result in live.items():
        names = ("rmse", "mean", "median", "std", "min", "max")
        expected = [float(result.stats[name]) for name in names]
        np.testing.assert_allclose(ours[key], expected, atol=1e-6, rtol=0, err_msg=key)


def test_umeyama_recovers_an_exact_transform_under_noise_free_points() -> None:
    points = np.random.default_rng(0).normal(size=(20, 3))
    found = umeyama(points, transform_points(SIM3, points), with_scale=True)
    np.testing.assert_allclose(found[[0, 1, 2, 7]], SIM3[[0, 1, 2, 7]], atol=1e-12)
    assert abs(found[3:7] @ SIM3[3:7]) == pytest.approx(1, abs=1e-14)


def test_umeyama_never_mirrors() -> None:
    points = np.random.default_rng(1).normal(size=(20, 3))
    found = umeyama(points, points * [1, -1, 1], with_scale=True)
    assert np.linalg.det(Rotation.from_quat(found[3:7]).as_matrix()) == pytest.approx(1)
    residual = transform_points(found, points) - points * [1, -1, 1]
    assert np.sqrt(np.mean(residual**2)) > 0.1


def test_alignment_is_a_minimum() -> None:
    generator = np.random.default_rng(2)
    source, target = generator.normal(size=(2, 30, 3))
    best = umeyama(source, target, with_scale=True)

    def cost(T: np.ndarray) -> float:
        return float(np.sum((transform_points(T, source) - target) ** 2))

    for axis in range(8):
        for step in (-1e-3, 1e-3):
            moved = best.copy()
            moved[axis] += step
            moved[3:7] /= np.linalg.norm(moved[3:7])
            assert cost(moved) >= cost(best)


def test_sim3_error_does_not_depend_on_the_estimates_world() -> None:
    estimate, truth = recipe()
    other = transform_trajectory(np.array([5.0, 5, 5, 0.6, 0, 0, 0.8, 30.0]), estimate)
    first, second = evaluate(estimate, truth), evaluate(other, truth)
    assert second.ate_sim3.rmse == pytest.approx(first.ate_sim3.rmse, abs=1e-12)
    assert second.rpe_frame.translation.rmse == pytest.approx(first.rpe_frame.translation.rmse)
    assert first.scale == pytest.approx(30 * second.scale)
    assert first.scale == pytest.approx(1 / SIM3[7], rel=1e-3)
    assert first.scale_error == pytest.approx(first.scale - 1)
    assert second.ate_unaligned.rmse > 10 * first.ate_unaligned.rmse


def test_perfect_estimate_has_no_error_under_any_alignment() -> None:
    truth = recipe()[1]
    for align in ("sim3", "se3", "none"):
        result = evaluate(truth, truth, align=align)
        assert result.ate_sim3.max < 1e-12
        assert result.ate_unaligned.max == 0
        assert result.rotation is not None
        assert result.rotation.max < 1e-5
        assert result.rpe_frame.translation.max < 1e-12


def test_known_drift_gives_known_relative_errors() -> None:
    t = np.arange(0, 10, 0.1)
    positions = np.stack([t, np.sin(t), 0 * t], axis=1)
    drift = np.outer(t, [0, 0, 0.02])  # 2 cm every second

    def trajectory(positions: np.ndarray, turn_rate: float) -> Trajectory:
        quaternions = Rotation.from_rotvec(np.outer(t, [0, turn_rate, 0])).as_quat()
        return Trajectory(t, np.concatenate([positions, quaternions], axis=1))

    truth = trajectory(positions, 0.3)
    moved = evaluate(trajectory(positions + drift, 0.3), truth, align="none")
    assert moved.rpe_second is not None
    assert moved.rpe_second.translation.count == 90
    assert moved.rpe_second.translation.rmse == pytest.approx(0.02, abs=1e-12)
    assert moved.rpe_frame.translation.rmse == pytest.approx(0.002, abs=1e-12)
    assert moved.rpe_frame.rotation.max < 1e-5
    turned = evaluate(trajectory(positions, 0.3 + np.radians(3)), truth, align="none")
    assert turned.rpe_second is not None
    assert turned.rpe_second.rotation.mean == pytest.approx(3, abs=1e-9)
    assert turned.rotation is not None
    assert turned.rotation.max == pytest.approx(3 * 9.9, abs=1e-9)


def test_frame_numbers_are_thirtieths_of_a_second() -> None:
    truth = recipe()[1]
    numbered = Trajectory(np.arange(len(truth), dtype=np.float64), truth.poses)
    result = evaluate(numbered, numbered)
    assert result.rpe_second is not None
    assert result.rpe_second.translation.count == len(truth) - 30


def test_pairs_a_second_apart_skip_what_has_no_partner() -> None:
    pairs = pairs_per_second(np.array([0.0, 0.5, 0.985, 1.04, 2.5, 3.6]))
    np.testing.assert_array_equal(pairs, [[0, 2]])


def test_completeness_counts_frames_with_truth_only() -> None:
    estimate, truth = recipe()  # 250 frames; truth ends at 7.99 s, estimate starts at 0.2 s
    frames = estimate.times
    judged = int(np.sum(frames <= truth.times[-1] + 0.02))
    assert judged < 250
    kept = np.ones(250, dtype=bool)
    kept[40:60] = False
    result = evaluate(estimate.select(kept), truth, frames=frames)
    assert result.completeness is not None
    assert result.completeness.judged == judged
    assert result.completeness.posed == judged - 20
    assert evaluate(estimate, truth).completeness is None
    assert "unknown" in format_table(evaluate(estimate, truth))
    with pytest.raises(ValueError, match="none of 250 stamps"):
        evaluate(estimate, truth, frames=frames + 1e6)


def test_bad_input_is_one_clear_line() -> None:
    estimate, truth = recipe()
    still = np.tile(truth.poses[:1], (len(truth), 1))
    cases = [
        (estimate.select(np.arange(2)), truth, "at least 3 poses matched within 0.02 s, got 2"),
        (Trajectory(estimate.times + 1e4, estimate.poses), truth, r"got 0: .*10000\.\d+"),
        (estimate.select(np.arange(0)), truth, "0 poses"),
        (Trajectory(truth.times, still), truth, "stationary estimate"),
        (estimate, Trajectory(truth.times, still), "stationary ground truth"),
    ]
    for bad_estimate, bad_truth, wanted in cases:
        with pytest.raises(ValueError, match=wanted) as caught:
            evaluate(bad_estimate, bad_truth)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="'sim2'"):
        evaluate(estimate, truth, align="sim2")  # type: ignore[arg-type]


def test_straight_path_has_a_position_error_and_no_rotation_error() -> None:
    truth = recipe()[1]
    line = truth.poses.copy()
    line[:, :3] = np.outer(truth.times, [1, 2, 3])
    line = Trajectory(truth.times, line)
    result = evaluate(line, line)
    assert result.ate_sim3.max < 1e-10
    assert result.rotation is None
    assert "rotation error [deg]                 unknown" in format_table(result)


def test_result_is_plain_numbers_for_json() -> None:
    estimate, truth = recipe()
    result = evaluate(estimate, truth, frames=estimate.times)
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["ate_sim3_m"]["rmse"] == result.ate_sim3.rmse
    assert plain["rpe_second"]["rotation_deg"]["count"] > 100
    assert plain["matched_poses"] == result.ate_sim3.count == len(result.errors)


def test_same_input_gives_the_same_bits() -> None:
    first, second = (evaluate(*recipe()).to_dict() for _ in range(2))
    assert first == second


# ------------------------------------------------------------------ files


def write_kitti(path: Path, trajectory: Trajectory) -> Path:
    R, t = trajectory.rotations.as_matrix(), trajectory.positions[:, :, None]
    np.savetxt(path, np.concatenate([R, t], axis=2).reshape(-1, 12))
    return path


def test_kitti_files_are_matched_by_row(tmp_path: Path) -> None:
    truth = recipe()[1]
    estimate = transform_trajectory(SIM3, truth)
    a = write_kitti(tmp_path / "a.txt", estimate)
    b = write_kitti(tmp_path / "b.txt", truth)
    result = evaluate_files(a, b, frames=truth.times)
    assert result.ate_sim3.max < 1e-10
    assert result.ate_sim3.count == len(truth)
    assert result.completeness is not None
    assert result.completeness.fraction == 1
    assert result.rpe_second is not None
    assert result.rpe_second.translation.count == len(truth) - 10
    short = write_kitti(tmp_path / "c.txt", estimate.select(np.arange(50)))
    with pytest.raises(ValueError, match=r"\(50\) as in .* \(800\)"):
        evaluate_files(short, b)


def test_kitti_truth_takes_its_times_from_the_frames(tmp_path: Path) -> None:
    truth = recipe()[1]
    kitti = write_kitti(tmp_path / "poses.txt", truth)
    np.savetxt(tmp_path / "times.txt", truth.times)
    write_tum(tmp_path / "estimate.txt", truth.select(np.arange(100, 700)))
    result = evaluate_files(tmp_path / "estimate.txt", kitti, frames=tmp_path / "times.txt")
    assert result.ate_unaligned.max < 1e-7
    assert result.completeness is not None
    assert result.completeness.posed == 600
    with pytest.raises(ValueError, match="--frames"):
        evaluate_files(tmp_path / "estimate.txt", kitti)


def test_frame_lists_of_all_kinds_are_read(tmp_path: Path) -> None:
    nanoseconds = "1250000000000000000,a.png\n1500000000000000000,b.png"
    contents = {
        "rgb.txt": "# color images\n1.25 rgb/1.jpg\n1.5 rgb/2.jpg\n",
        "data.csv": "#timestamp [ns],filename\n" + nanoseconds,
        "times.txt": "1.25e+00\n1.5e+00\n",
        "report.json": '{"frame_times": [1.25, 1.5]}',
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        unit = 1e9 if name == "data.csv" else 1
        np.testing.assert_allclose(read_frame_times(tmp_path / name), [1.25 * unit, 1.5 * unit])


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("rgb.txt", "1.0 a.jpg\nb.jpg 2.0\n", r"rgb\.txt:2: .*'b.jpg 2.0'"),
        ("rgb.txt", "# none\n", "found none"),
        ("rgb.txt", "2.0 a\n1.0 b\n", "backwards"),
        ("report.json", "{}", "frame_times"),
        ("report.json", "not json", "frame_times"),
        ("report.json", '{"frame_times": []}', "found none"),
    ],
)
def test_bad_frame_lists_are_named(tmp_path: Path, name: str, content: str, wanted: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=wanted):
        read_frame_times(tmp_path / name)
