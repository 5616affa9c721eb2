"""What kernels say of arguments that do not fit: one clear line that names the argument."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from kernel_calls import (
    dense,
    dense_step,
    fuse,
    inputs,
    match,
    pixel_depth,
    pose,
    ray,
    refine,
    refine_match,
    solve,
    triangulate,
    unroll,
    warp,
)

from slam import kernels
from slam.kernels import DenseProblem

USED = {
    pose: ("pixel", "inverse_depth", "information", "target", "weight"),
    solve: ("pixel", "inverse_depth", "information", "target", "weight"),
    ray: ("X_k", "X_f", "weight"),
    pixel_depth: ("pixel", "X_k", "X_f", "weight"),
    triangulate: ("pixel", "target", "weight"),
    fuse: ("inverse_depth", "information", "weight"),
    warp: ("inverse_depth", "information"),
    unroll: ("pixel", "inverse_depth", "target"),
    refine: ("first", "second", "flow"),
    match: ("X_f",),
    refine_match: ("descriptors", "sought", "rays", "X_f", "pixel", "active"),
}
ARGUMENTS = [(call, name) for call, names in USED.items() for name in names]


@pytest.mark.parametrize(("call", "name"), ARGUMENTS)
def test_wrong_arrays_are_one_clear_line(call: Any, name: str) -> None:
    good = inputs(12)
    wrong = {
        "dtype": good[name].double(),
        "length": good[name][:7],
        "dimensions": good[name][None],
        "layout": torch.stack([good[name], good[name]], -1)[..., 0],
        "device": good[name].to("meta"),
    }
    for case, tensor in wrong.items():
        with pytest.raises(ValueError, match="want") as error:
            call(**{**good, name: tensor})
        assert "\n" not in str(error.value), case


@pytest.mark.parametrize(
    ("call", "change", "message"),
    [
        (pose, {"T_ji": torch.zeros(7)}, "T_ji: want shape [7] torch.float64"),
        (pose, {"T_ji": torch.zeros(7).double()}, "want a finite pose"),
        (pose, {"T_ji": torch.full((7,), torch.nan).double()}, "want a finite pose"),
        (pose, {"intrinsics": (0.0, 1.0, 2.0, 3.0)}, "intrinsics: want (fx, fy, cx, cy)"),
        (pose, {"intrinsics": (1.0, 1.0, 2.0)}, "intrinsics: want (fx, fy, cx, cy)"),
        (pose, {"huber": 0.0}, "huber: want a number > 0, got 0.0"),
        (pose, {"outlier": float("nan")}, "outlier: want a number > 0"),
        (solve, {"iterations": 0}, "iterations: want a number > 0"),
        (ray, {"T_kf": torch.tensor([0, 0, 0, 0, 0, 0, 1, -1]).double()}, "want a finite pose"),
        (ray, {"sigma_ray": -1.0}, "sigma_ray: want a number > 0"),
        (triangulate, {"gate": 0.0}, "gate: want a number > 0"),
        (fuse, {"new_value": torch.zeros(3)}, "new_value: want shape [12]"),
        (fuse, {"decay": -0.1}, "decay: want a number >= 0"),
        (warp, {"grid": (3, 3, 1.0, 0.0)}, "value: want shape [9]"),
        (warp, {"grid": (3, 4, 0.0, 0.0)}, "grid: want sizes >= 0 and a stride > 0"),
        (unroll, {"T_ji": torch.zeros(7).double()}, "T_ji: want a finite pose"),
        (unroll, {"twist_i": torch.zeros(6)}, "twist_i: want a finite [6] torch.float64"),
        (unroll, {"twist_j": torch.zeros(7).double()}, "twist_j: want a finite [6]"),
        (unroll, {"twist_j": torch.full((6,), torch.inf).double()}, "twist_j: want a finite [6]"),
        (unroll, {"height": 0}, "height, readout: want >= 1 px and a finite time, got 0"),
        (unroll, {"readout": float("nan")}, "height, readout: want"),
        (refine, {"radius": -1}, "radius: want a number >= 0, got -1"),
        (refine, {"iterations": -1}, "iterations: want a number >= 0, got -1"),
        (refine, {"regularisation": 0.0}, "regularisation: want a number > 0"),
        (refine, {"longest_step": 0.0}, "longest_step: want a number > 0"),
        (refine, {"flow": torch.zeros(12, 1, 3)}, "flow: want shape [12, 1, 2]"),
        (refine, {"second": torch.zeros(3, 4, dtype=torch.uint8)}, "second: want shape [12, 1]"),
        (match, {"rays": torch.zeros(3, 4, 3)}, "rays: want shape [-1, -1, 4]"),
        (match, {"rays": torch.zeros(3, 0, 4)}, "rays: want at least one pixel to search"),
        (match, {"starts": torch.zeros(2, 7, 2)}, "starts: want shape [-1, 12, 2]"),
        (match, {"starts": torch.zeros(0, 12, 2)}, "starts: want shape [1 or more, P, 2]"),
        (match, {"iterations": 0}, "iterations: want a number > 0, got 0"),
        (match, {"damping": -1.0}, "damping: want a number >= 0, got -1.0"),
        (refine_match, {"sought": torch.zeros(12, 3)}, "sought: want shape [12, 20]"),
        (refine_match, {"radius": -1}, "radius: want a number >= 0, got -1"),
        (refine_match, {"dilation": -1}, "dilation: want a number >= 0, got -1"),
        (
            refine_match,
            {"descriptors": torch.zeros(12, 1, 33), "sought": torch.zeros(12, 33)},
            "descriptors: want 1 to 32 channels, got 33",
        ),
    ],
)
def test_wrong_values_name_the_argument(call: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call(**{**inputs(12), **change})


@pytest.mark.parametrize(
    "name",
    [
        field.name
        for field in fields(DenseProblem)
        if field.name not in ("intrinsics", "refine_focal", "part")
    ],
)
def test_a_wrong_dense_problem_names_the_field(name: str) -> None:
    problem = dense()
    value = getattr(problem, name)
    wrong = -value if isinstance(value, float) else value[..., :-1]
    with pytest.raises(ValueError, match="want"):
        kernels.dense_ba_cost(replace(problem, **{name: wrong}))
    with pytest.raises(ValueError, match="want"):
        wrong = 0.0 if isinstance(value, float) else value.to(torch.float16)
        dense_step(replace(problem, **{name: wrong}))


@pytest.mark.parametrize("part", [(0, 0), (2, 1), (-1, 2), (0, 99)])
def test_a_part_that_is_none_is_told(part: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="part: want keyframes of 0 to"):
        kernels.dense_ba_cost(replace(dense(), part=part))


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([[0, 1], [0, 5]], "want indices from 0 to 4"),
        ([[-1, 1], [0, 1]], "want indices from 0 to 4"),
        ([[0, 1], [2, 2]], "want i != j"),
        ([[1, 0], [0, 1]], "want them sorted"),
        ([[0, 2], [0, 1]], "want them sorted"),
    ],
)
def test_wrong_edges_are_told(edges: list[list[int]], message: str) -> None:
    problem = dense()
    changed = replace(
        problem,
        edges=torch.tensor(edges, dtype=torch.int32),
        target=problem.target[:2],
        weight=problem.weight[:2],
    )
    with pytest.raises(ValueError, match=message):
        kernels.dense_ba_cost(changed)


def test_wrong_options_of_a_step_are_told() -> None:
    with pytest.raises(ValueError, match="damping: want a number >= 0"):
        dense_step(dense(), damping=-1.0)
    with pytest.raises(ValueError, match="min_value: want at most max_value"):
        dense_step(dense(), min_value=2.0, max_value=1.0)
