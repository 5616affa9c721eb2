"""Defects of a published pointmap SLAM system, none of which is ours; each is shown by a test.

They were found by reading MASt3R-SLAM's public code and its users' reports (2025). `here` is this
file; what is said elsewhere is not said again.

A map ends at 512 keyframes, unchecked: here::test_a_map_of_1100_keyframes_is_kept_and_solved
Only keyframes get a pose: test_run.py::test_every_frame_has_a_pose_in_the_trajectory,
    test_pointmap_run.py::test_the_simulated_network_gives_a_path_right_to_one_in_ten_thousand
The end does not wait for what is queued: here::test_the_end_waits_for_the_keyframes_in_the_queue
Probing the first image shifts all time stamps by one, a video's ignore the stride:
    test_sources_formats.py::test_video_frames_come_with_their_stamps,
    test_sources.py::test_selection_keeps_indices_of_the_full_list
A calibration that is missing ends a run with status 0:
    test_sources.py::test_a_missing_calibration_file_is_named,
    test_cli.py::test_bad_input_is_one_line_without_traceback,
    test_sources_formats.py::test_tum_without_bag_name_is_uncalibrated_and_says_so
A system that cannot be solved is a silent step of zero:
    here::test_a_pose_graph_that_cannot_be_solved_is_said_and_moves_nothing,
    here::test_a_bundle_adjustment_that_cannot_be_solved_is_said_and_moves_nothing,
    test_pose_graph.py::test_keyframes_without_a_tie_are_a_failure_that_names_them,
    test_pointmap_tracking.py::test_too_few_matches_are_a_value
Descriptors with scores below zero refine nothing, and what they move is not looked at again:
    test_kernels_matching.py::test_scores_below_zero_are_compared_like_others,
    test_matching.py::test_a_match_that_descriptors_move_to_another_surface_is_dropped
Matches with the former keyframe are the start after a relocalisation:
    test_matching.py::test_a_guess_left_over_from_another_keyframe_does_no_harm
A pose is guessed in the world, and jumps when the backend moves its keyframe:
    here::test_the_guess_of_a_pose_does_not_jump_when_its_keyframe_moves
Thresholds are in the network's units:
    here::test_a_map_in_other_units_is_the_same_map,
    test_matching.py::test_matching_never_asks_for_absolute_distances,
    test_pointmap_tracking.py::test_nothing_depends_on_the_scale_of_the_map,
    test_pointmap_fusion.py::test_the_scale_of_the_map_does_not_matter
Every keyframe solves the whole map again: here::test_the_work_for_a_keyframe_does_not_grow
A warp's sum has no synchronisation: here::test_warps_synchronise_what_they_exchange,
    test_kernels_contract.py::test_the_same_bits_each_time
Indices are of type long, 32 bits on Windows, and there is no code for newer GPUs:
    here::test_integers_of_the_kernels_have_a_width, here::test_gpus_to_come_can_compile_the_kernels
A machine without a GPU builds no kernels: here::test_the_build_asks_for_a_compiler_not_for_a_gpu
A new torch does not load checkpoints, a new numpy breaks loaders:
    test_checkpoints.py::test_a_published_pickle_loads_and_its_licence_is_said,
    test_retrieval.py::test_bits_are_counted_without_a_new_numpy_too,
    test_retrieval_head.py::test_an_older_numpy_s_pickle_is_read
Settings are ignored, or nobody reads them: here::test_every_setting_is_read_somewhere,
    test_pose_graph.py::test_a_window_moves_and_the_rest_stays_bit_for_bit
An edge to the keyframe before may be garbage and is believed:
    test_pose_graph.py::test_an_edge_between_look_alikes_loses_its_say
An average never forgets what was wrong:
    test_pointmap_fusion.py::test_a_wrong_first_observation_is_forgotten,
    test_pointmap_fusion.py::test_one_gross_error_hardly_moves_an_established_point,
    test_pointmap_system.py::test_dense_adjustment_halves_the_error_on_rays_and_beats_pixels
A frame found again gets the pose of what it was found by:
    here::test_a_frame_found_again_has_its_own_pose_at_once
A folder's images must be png: test_sources_formats.py::test_a_folder_is_read_in_natural_order
A data set's first sequence alone can be read, by a path with a magic word in it:
    test_sources_formats.py::test_7scenes_opens_the_first_sequence_of_a_scene_and_names_the_others,
    test_sources_formats.py::test_format_is_found_by_content_whatever_the_folder_is_called

Three parts of these do not apply: stores of fixed size that processes share on the GPU (there is
one process), busy waiting between them (queues), and a window that must close for a run to be
saved. One does: images of a folder without a list are taken as 30 a second, as the README says.
"""

from __future__ import annotations

import ast
import dataclasses
import logging
import re
import threading
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from four_keyframes import FIRST, MAPPING, NONE, SETTINGS, measurements, start
from pointmap_graph import Graph as World
from pointmap_graph import error, loop
from pointmap_runs import NOISE, WORLD, Finished, configured, image, run, started
from small_map import IDENTITY, keyframe, record
from synthetic import GRID

from slam.config import Config
from slam.frame import Correspondence, TrackState
from slam.graph import Graph
from slam.lie import se3_exp, se3_inv, se3_mul, sim3_exp, sim3_mul
from slam.optimization import bundle_adjust, optimise_pose_graph
from slam.pointmap_backend import PointmapBackend
from slam.pointmap_settings import PoseGraphSettings, ResidualSettings
from slam.settings import Section

pytestmark = pytest.mark.usefixtures("one_thread")
CHECKOUT = Path(__file__).parents[1]
MANY = 1100  # keyframes


def test_every_test_that_is_named_above_exists() -> None:
    named = re.findall(r"(here|test_\w+\.py)::(test_\w+)", __doc__ or "")
    assert len(named) > 30 and len(set(named)) == len(named)
    for file, name in named:
        path = Path(__file__) if file == "here" else Path(__file__).with_name(file)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in tests, f"{path.name} has no {name}"


# --- the map -------------------------------------------------------------------------------------


def test_a_map_of_1100_keyframes_is_kept_and_solved() -> None:
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    measured = Correspondence(torch.zeros(4, 2), torch.ones(4))
    for number in range(MANY):
        assert graph.add_keyframe(keyframe(number)) == number
        graph.set_record(record(number, number, float(number)))
        graph.set_edges([(number - 1, number)], {(number - 1, number): measured} if number else {})
    assert len(graph) == len(graph.snapshot().keyframes) == len(graph.edges()) + 1 == MANY
    assert [float(graph.T_WC(r)[0]) for r in graph.records()] == [float(n) for n in range(MANY)]
    world = going_round(loop(12, neighbours=(1,), most=110), MANY)
    spoiled, moved = world.T_WC.clone(), [3, 511, 512, 513, MANY - 1]
    twist = torch.tensor([0.02, -0.01, 0.02, 0.01, -0.01, 0.01, 0.02], dtype=torch.float64)
    spoiled[moved] = sim3_mul(sim3_exp(twist).expand(len(moved), 8), spoiled[moved])
    fixed = [n not in moved for n in range(MANY)]
    settings = ResidualSettings(), PoseGraphSettings()
    found = optimise_pose_graph(spoiled, world.pointmaps, world.factors, fixed, *settings)
    assert found.failure == "" and error(found.T_WC, world.T_WC) < 1e-3 < error(spoiled, world.T_WC)


def going_round(world: World, count: int) -> World:
    """So many keyframes, where those of a small loop are, again and again."""
    size = len(world.T_WC)
    places = [n % size for n in range(count)]
    step = {(f.i, f.j): f for f in world.factors}
    factors = [
        replace(step[places[i], places[j]], i=i, j=j)
        for n in range(count - 1)
        for i, j in ((n, n + 1), (n + 1, n))
    ]
    return World(world.T_WC[places], [world.pointmaps[p] for p in places], factors)


def test_the_work_for_a_keyframe_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poses that take part in an adjustment, and those that move, while nothing closes a loop."""
    sizes: list[tuple[int, int]] = []

    def counted(solve: Callable[..., Any], place: int) -> Callable[..., Any]:
        def solving(*arguments: Any, **options: Any) -> Any:
            fixed = arguments[place]
            sizes.append((len(fixed), fixed.count(False)))
            return solve(*arguments, **options)

        return solving

    for name, place in (("adjuster.bundle_adjust", 3), ("pointmap_backend.optimise_pose_graph", 3)):
        module, function = name.split(".")
        solve = {"bundle_adjust": bundle_adjust, "optimise_pose_graph": optimise_pose_graph}
        monkeypatch.setattr(f"slam.{module}.{function}", counted(solve[function], place))
    config = configured(keyframe_overlap=0.9)
    adjustment = replace(
        config.bundle_adjustment, window=2, anchors=1, neighbours=1, covisible_at_once=0
    )
    with started(replace(config, bundle_adjustment=adjustment)) as slam:
        for index in range(0, 60, 10):
            slam.feed(image(index))
        slam._catch_up()
        assert len(slam.graph) > 5
    assert len(sizes) > 7
    assert max(total for total, _ in sizes) <= 3 and max(moved for _, moved in sizes) <= 2


# --- a run ---------------------------------------------------------------------------------------


@cache
def in_units(metre: float, calibrated: bool) -> Finished:
    config = configured(NOISE) if calibrated else configured(NOISE, focal_sigma=1e-6)
    focal_factor = None if calibrated else 0.8
    return run(config, range(0, 70, 10), focal_factor=focal_factor, metre=metre)


@pytest.mark.parametrize("calibrated", [True, False], ids=["pixels", "rays"])
@pytest.mark.parametrize("metre", [1e-4, 100.0])
def test_a_map_in_other_units_is_the_same_map(metre: float, calibrated: bool) -> None:
    usual, other = in_units(1.0, calibrated), in_units(metre, calibrated)
    graphs = usual.slam.graph, other.slam.graph
    indices = [[k.frame.index for k in graph.keyframes()] for graph in graphs]
    assert indices[0] == indices[1] and len(indices[0]) > 1
    one, two = ([graph.T_WC(r) for r in graph.records()] for graph in graphs)
    assert [r.state for r in graphs[0].records()] == [r.state for r in graphs[1].records()]
    for T, S in zip(one, two, strict=True):
        assert float((S[:3] / metre - T[:3]).abs().max()) < 2e-4  # of 2 m
        assert float((S[3:] - T[3:]).abs().max()) < 1e-4


def test_the_end_waits_for_the_keyframes_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """In real time the backend may be far behind when the images end."""
    go, done = threading.Event(), []
    step, finish = PointmapBackend.step, PointmapBackend.finish

    def late(backend: PointmapBackend, keyframes: Sequence[Any], first: int) -> None:
        go.wait(30)
        step(backend, keyframes, first)
        done.append(len(keyframes))

    def last(backend: PointmapBackend) -> None:
        finish(backend)
        done.append("finish")

    monkeypatch.setattr(PointmapBackend, "step", late)
    monkeypatch.setattr(PointmapBackend, "finish", last)
    config = configured()
    with started(replace(config, run=replace(config.run, realtime=True))) as slam:
        for index in range(0, 80, 10):
            slam.feed(image(index))
        count = len(slam.graph)
        assert count > 2 and done == []
        threading.Timer(0.1, go.set).start()
        slam.finish()
        assert done[-2:] == [count, "finish"]
        assert {count - 1} <= {k for edge in slam.graph.edges() for k in edge}


def test_the_guess_of_a_pose_does_not_jump_when_its_keyframe_moves() -> None:
    """What a frame is to its keyframe is the same to the last bit wherever that is moved."""
    found = []
    for twist in (torch.zeros(6), torch.tensor([3.0, -2.0, 1.0, 0.5, 1.0, -0.7])):
        with started(configured(NOISE)) as slam:
            for index in (0, 3, 6):
                slam.feed(image(index))
            slam.graph.adopt({0: se3_mul(se3_exp(twist.double()), IDENTITY)}, {})
            found.append(slam.feed(image(9)))
            assert len(slam.graph) == 1
    assert torch.equal(found[0].record.T_kf, found[1].record.T_kf)
    assert (found[0].T_WC - found[1].T_WC).abs().max() > 1.0


def test_a_frame_found_again_has_its_own_pose_at_once() -> None:
    """Its pose against the keyframe, not the keyframe's; measured before anything is adjusted."""
    with started(configured(keyframe_overlap=0.3)) as slam:
        for index in (*range(0, 80, 10), 150):
            slam.feed(image(index))
        step = slam.feed(image(12))
        assert step.record.state is TrackState.RELOCALISED and step.T_WC is not None
        true = se3_mul(se3_inv(WORLD.read(0).T_WC), WORLD.read(12).T_WC)
        places = [k.T_WC[:3] for k in slam.graph.keyframes()]
        assert (step.T_WC[:3] - true[:3]).norm() < 2e-3
        assert all((place - true[:3]).norm() > 0.1 for place in places)


# --- what cannot be solved -----------------------------------------------------------------------


def test_a_pose_graph_that_cannot_be_solved_is_said_and_moves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with started(configured()) as slam:
        for index in range(0, 80, 10):
            slam.feed(image(index))
        slam._catch_up()
        backend, keyframes = slam.backend, slam.graph.keyframes()
        assert isinstance(backend, PointmapBackend) and len(keyframes) > 2
        few = {e: replace(f, weight=f.weight * 0) for e, f in backend._factors.items()}
        backend._factors = few
        with caplog.at_level(logging.WARNING, logger="slam"):
            after = backend._adjust_poses(keyframes, {1, 2})
        assert after is keyframes and backend._adjusted == []
        assert "no factors tie keyframes 1, 2 to a fixed one" in caplog.text


def test_a_bundle_adjustment_that_cannot_be_solved_is_said_and_moves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state, edges = start(), measurements()
    settings = replace(SETTINGS, huber=1e30, outlier=1e30)  # nothing is held back
    broken = {  # whose sums overflow
        edge: Correspondence(found.target, torch.full_like(found.weight, 1e35))
        for edge, found in edges.items()
    }
    with caplog.at_level(logging.WARNING, logger="slam"):
        bundle_adjust(GRID, state, edges, FIRST, NONE, settings, MAPPING, iterations=3)
        assert caplog.text == ""
        result = bundle_adjust(GRID, state, broken, FIRST, NONE, settings, MAPPING, iterations=3)
    assert "bundle adjustment of 4 keyframes: cannot be solved, nothing moves" in caplog.text
    assert not result.converged
    torch.testing.assert_close(result.T_WC, state.T_WC)
    for old, new in zip(state.depth, result.depth, strict=True):
        assert torch.equal(old.value, new.value)


# --- settings and sources ------------------------------------------------------------------------


def test_every_setting_is_read_somewhere() -> None:
    read = set()
    for path in (CHECKOUT / "slam").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {name.split(".")[-1] for name in settings_of(Config())}
    assert len(names) > 100
    assert names <= read, f"nothing reads {sorted(names - read)}"


def settings_of(section: Section) -> Iterator[str]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            yield from (f"{field.name}.{name}" for name in settings_of(value))
        else:
            yield field.name


def native_sources(*endings: str) -> str:
    """The kernels' sources without their comments."""
    files = [p for p in (CHECKOUT / "cuda_ext").rglob("*") if p.suffix in endings]
    assert files
    return "\n".join(re.sub(r"//.*", "", p.read_text(encoding="utf-8")) for p in sorted(files))


def test_warps_synchronise_what_they_exchange() -> None:
    """Since Volta the lanes of a warp are not in step by themselves."""
    source = native_sources(".cu", ".cuh", ".h")
    exchanges = re.findall(r"__(?:shfl\w*|ballot\w*|any\w*|all\w*|match\w*)\b", source)
    assert exchanges and all(name.endswith("_sync") for name in exchanges), exchanges
    assert "volatile" not in source


def test_integers_of_the_kernels_have_a_width() -> None:
    source = native_sources(".cu", ".cuh", ".h", ".cpp").replace("long long", "")
    assert re.findall(r"\blong\b", source) == []


def test_gpus_to_come_can_compile_the_kernels() -> None:
    """What is not `-real` is kept as PTX too, which newer GPUs compile for themselves."""
    text = (CHECKOUT / "cuda_ext" / "CMakeLists.txt").read_text(encoding="utf-8")
    lists = re.findall(r'set\(CMAKE_CUDA_ARCHITECTURES "([\d;a-z-]+)"\)', text)
    chosen = [names.split(";") for names in lists if ";" in names]
    assert len(chosen) == 2
    for names in chosen:
        assert not names[-1].endswith("-real"), names
        assert names[-1] == max(names, key=lambda name: int(name.split("-")[0]))


def test_the_build_asks_for_a_compiler_not_for_a_gpu() -> None:
    text = (CHECKOUT / "cuda_ext" / "CMakeLists.txt").read_text(encoding="utf-8").lower()
    assert "check_language(cuda)" in text
    for probe in ("nvidia-smi", "torch", "/dev/nvidia", "try_run", '"native"', "cudagetdevice"):
        assert probe not in text, probe
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    assert not any(name.startswith("torch") for name in project["build-system"]["requires"])
