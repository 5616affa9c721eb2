"""What all kernels promise: the same bits for any threads and each time, inputs left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import astuple, is_dataclass, replace
from typing import Any

import pytest
import torch
from kernel_calls import (
    CALLS,
    IN_PLACE,
    P,
    dense,
    dense_step,
    inputs,
    pixel_depth,
    pose,
    ray,
    solve,
)
from torch import Tensor

from slam import kernels


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's thread count, and the former one afterwards."""
    former = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(former)


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
