"""What all kernels promise: clear errors, the same bits for any threads, no shared state."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import astuple, fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from slam import kernels
from slam.kernels import DenseProblem, Intrinsics
from slam.lie import se3_exp, sim3_exp

K: Intrinsics = (250.0, 260.0, 157.0, 121.0)
P = 9001  # more than one block, and no multiple of the lanes


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's thread count, and the former one afterwards."""
    former = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(former)


def inputs(count: int = P) -> dict[str, Tensor]:
    """Arguments of all kernels by name."""
    g = torch.Generator().manual_seed(0)
    pixel = torch.rand(count, 2, generator=g) * 300
    rows = min(count, 97)
    size = rows, count // max(rows, 1)
    return {
        "first": torch.randint(0, 256, size, generator=g, dtype=torch.uint8),
        "second": torch.randint(0, 256, size, generator=g, dtype=torch.uint8),
        "flow": 5 * torch.randn(*size, 2, generator=g),
        "twist_i": 0.5 * torch.randn(6, generator=g).double(),
        "twist_j": 0.5 * torch.randn(6, generator=g).double(),
        "pixel": pixel,
        "inverse_depth": 0.3 + torch.rand(count, generator=g),
        "information": 1e3 * torch.rand(count, generator=g),
        "target": pixel + 5 * torch.randn(count, 2, generator=g),
        "weight": torch.rand(count, generator=g),
        "X_k": 1 + torch.rand(count, 3, generator=g),
        "X_f": 1 + torch.rand(count, 3, generator=g),
        "rays": torch.randn(*size, 4, generator=g),
        "starts": 0.3 * torch.rand(2, count, 2, generator=g) * rows,
        "descriptors": torch.randn(*size, 20, generator=g),
        "sought": torch.randn(count, 20, generator=g),
        "active": torch.rand(count, generator=g) > 0.1,
        "T_ji": se3_exp(0.05 * torch.randn(6, generator=g).double()),
        "T_kf": sim3_exp(0.05 * torch.randn(7, generator=g).double()),
    }


def dense() -> DenseProblem:
    """A dense problem of a few blocks."""
    g = torch.Generator().manual_seed(1)
    pixel = torch.rand(1301, 2, generator=g) * 300
    edges = torch.tensor([(i, j) for i in range(5) for j in range(5) if i != j], dtype=torch.int32)
    return DenseProblem(
        poses=se3_exp(0.05 * torch.randn(5, 6, generator=g).double()),
        inverse_depth=0.3 + torch.rand(5, 1301, generator=g),
        edges=edges,
        target=pixel + 5 * torch.randn(20, 1301, 2, generator=g),
        weight=torch.rand(20, 1301, generator=g),
        prior=torch.ones(5, 1301),
        prior_weight=torch.ones(5, 1301),
        pixel=pixel,
        intrinsics=K,
        fixed=torch.tensor([True, False, False, False, False]),
        huber=2.0,
        outlier=20.0,
        refine_focal=True,
    )


def pose(**a: Any) -> Any:
    names = ("pixel", "inverse_depth", "information", "target", "weight", "T_ji")
    camera = a.get("intrinsics", K)
    return kernels.pose_normal_equations(
        *(a[n] for n in names), camera, huber=a.get("huber", 2.0), outlier=a.get("outlier", 9.0)
    )


def solve(**a: Any) -> Any:
    names = ("pixel", "inverse_depth", "information", "target", "weight", "T_ji")
    iterations = a.get("iterations", 8)
    return kernels.solve_pose(
        *(a[n] for n in names), K, huber=2.0, outlier=9.0, iterations=iterations
    )


def ray(**a: Any) -> Any:
    return kernels.ray_normal_equations(
        *(a[n] for n in ("X_k", "X_f", "weight", "T_kf")),
        sigma_ray=a.get("sigma_ray", 0.01),
        sigma_distance=0.1,
        huber=1.345,
    )


def pixel_depth(**a: Any) -> Any:
    return kernels.pixel_depth_normal_equations(
        *(a[n] for n in ("pixel", "X_k", "X_f", "weight", "T_kf")),
        K,
        sigma_pixel=1.0,
        sigma_depth=0.1,
        huber=1.345,
    )


def triangulate(**a: Any) -> Any:
    return kernels.triangulate_inverse_depth(
        *(a[n] for n in ("pixel", "target", "weight", "T_ji")), K, gate=a.get("gate", 5.0)
    )


def fuse(**a: Any) -> Any:
    value, information = a["inverse_depth"], a["information"]
    new = a.get("new_value", value + 0.1), a["weight"]
    kernels.fuse_inverse_depth(
        value,
        information,
        *new,
        gate=3.0,
        relative_floor=0.01,
        initial=0.5,
        decay=a.get("decay", 0.9),
    )
    return value, information


def warp(**a: Any) -> Any:
    grid = a.get("grid", (1, len(a["inverse_depth"]), 1.0, 0.0))
    return kernels.warp_inverse_depth(
        *(a[n] for n in ("inverse_depth", "information", "T_ji")), K, grid, inflation=0.1
    )


def unroll(**a: Any) -> Any:
    names = ("pixel", "inverse_depth", "target", "T_ji", "twist_i", "twist_j")
    readout, height = a.get("readout", 0.02), a.get("height", 240)
    return [kernels.unroll_target(*(a[n] for n in names), K, readout=readout, height=height)]


def refine(**a: Any) -> Any:
    options = {"radius": 2, "iterations": 2} | {n: a[n] for n in OPTIONS if n in a}
    kernels.refine_flow(a["first"], a["second"], a["flow"], **options)
    return [a["flow"]]


def match(**a: Any) -> Any:
    options = {"iterations": 5, "damping": 1e-3} | {n: a[n] for n in OPTIONS if n in a}
    return kernels.match_rays(a["rays"], a["X_f"], a["starts"], **options)


def refine_match(**a: Any) -> Any:
    names = ("descriptors", "sought", "rays", "X_f", "pixel", "active")
    options = {"radius": 2, "dilation": 2} | {n: a[n] for n in OPTIONS if n in a}
    return kernels.refine_matches(*(a[n] for n in names), **options)


def dense_step(problem: DenseProblem, **a: float) -> Any:
    options = {"damping": 1e-3, "depth_damping": 0.0, "min_value": 0.01, "max_value": 10.0} | a
    return kernels.dense_ba_step(problem, **options)


CALLS = [
    pose, solve, ray, pixel_depth, triangulate, fuse, warp, unroll, refine, match, refine_match
]  # fmt: skip
IN_PLACE = (fuse, refine)
OPTIONS = ("radius", "iterations", "regularisation", "longest_step", "damping", "dilation")


def bits(value: Any) -> list[Any]:
    """A result as a list of comparable parts."""
    parts = astuple(value) if is_dataclass(value) else value  # type: ignore
    return [part.tolist() if isinstance(part, Tensor) else part for part in parts]


@pytest.mark.parametrize("call", CALLS)
def test_the_same_bits_for_one_and_more_threads(call: Any, threads: Callable[[int], None]) -> None:
    threads(1)
    one = bits(call(**inputs()))
    for count in (2, 3):
        threads(count)
        assert bits(call(**inputs())) == one


def test_dense_steps_have_the_same_bits_for_any_threads(threads: Callable[[int], None]) -> None:
    threads(1)
    one, cost = bits(dense_step(dense())), kernels.dense_ba_cost(dense())
    for count in (2, 4):
        threads(count)
        assert bits(dense_step(dense())) == one
        assert kernels.dense_ba_cost(dense()) == cost


def test_kernels_of_two_python_threads_do_not_disturb_each_other(
    threads: Callable[[int], None],
) -> None:
    threads(2)
    problem, want = dense(), bits(dense_step(dense()))
    failures: list[int] = []

    def work(number: int) -> None:
        for _ in range(15):
            if bits(dense_step(problem)) != want:
                failures.append(number)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert not failures and not any(worker.is_alive() for worker in workers)


def there(device: torch.device, count: int) -> dict[str, Tensor]:
    """The arguments on a device; poses and twists stay where every kernel takes them."""
    host = ("T_ji", "T_kf", "twist_i", "twist_j")
    return {n: a if n in host else a.to(device) for n, a in inputs(count).items()}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("count", [0, 1])
def test_no_and_one_pixel(device: torch.device, call: Any, count: int) -> None:
    call(**there(device, count))


@pytest.mark.parametrize("call", CALLS)
def test_the_same_bits_each_time(device: torch.device, call: Any) -> None:
    """No sum depends on which thread or block comes first."""
    one = bits(call(**there(device, P)))
    assert all(bits(call(**there(device, P))) == one for _ in range(5))


def test_dense_steps_have_the_same_bits_each_time(device: torch.device) -> None:
    names = ("inverse_depth", "target", "weight", "prior", "prior_weight", "pixel")
    problem = dense()
    problem = replace(problem, **{n: getattr(problem, n).to(device) for n in names})
    one = bits(dense_step(problem))
    assert all(bits(dense_step(problem)) == one for _ in range(5))


@pytest.mark.parametrize("call", [pose, ray, pixel_depth])
def test_without_weight_nothing_counts(device: torch.device, call: Any) -> None:
    given = there(device, 700)
    got = call(**{**given, "weight": torch.zeros_like(given["weight"])})
    assert not got.H.any() and not got.g.any()
    assert (got.cost, got.inliers, got.count) == (0.0, 0, 0)


def test_a_pose_without_weight_stays(device: torch.device) -> None:
    given = there(device, 700)
    got = solve(**{**given, "weight": torch.zeros_like(given["weight"])})
    assert torch.equal(got.T, given["T_ji"]) and not got.converged and got.count == 0


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
        if field.name not in ("intrinsics", "refine_focal")
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


def test_inputs_stay_as_they_were() -> None:
    before, problem = inputs(50), dense()
    copies = {name: tensor.clone() for name, tensor in before.items()}
    for call in CALLS:
        if call not in IN_PLACE:
            call(**before)
    assert all(torch.equal(before[name], copies[name]) for name in before)
    copy = dense()
    dense_step(problem)
    assert torch.equal(problem.inverse_depth, copy.inverse_depth)
    assert torch.equal(problem.poses, copy.poses)


def test_native_info_says_how_it_was_built() -> None:
    info = kernels.native_info()
    assert info.with_cuda == bool(info.architectures)
