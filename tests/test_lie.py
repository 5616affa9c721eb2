"""SO(3), SE(3), Sim(3): axioms, matrix exponential as the oracle, hard angles, float32."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import hat4
from torch import Tensor

from slam import lie, one_pose
from slam.lie import SE3, SO3, Sim3

GROUPS = [SO3, SE3, Sim3]
ANGLES = [0.0, 1e-8, 1e-4, 1e-3, 0.1, 1.0, 3.1, torch.pi - 1e-4, torch.pi - 1e-7]


def twist(group: type[SO3], seed: int, scale: float = 1.0, count: int = 1) -> Tensor:
    """Random twists with angles below pi."""
    generator = torch.Generator().manual_seed(seed)
    xi = torch.randn(count, group.degrees, generator=generator, dtype=torch.float64)
    at = 0 if group is SO3 else 3
    xi[:, at : at + 3] *= 3.0 / xi[:, at : at + 3].norm(dim=1, keepdim=True).clamp(min=3.0)
    if group is Sim3:
        xi[:, 6] = 0.7 * xi[:, 6].clamp(-2, 2)
    return scale * xi


def oracle(xi: Tensor) -> Tensor:
    """Matrices [..., 4, 4] by the matrix exponential in float64."""
    xi = xi.double()
    if xi.shape[-1] == 3:
        xi = torch.cat([torch.zeros_like(xi), xi], -1)
    return torch.stack([torch.linalg.matrix_exp(hat4(one)) for one in xi])


def matrix4(element: SO3) -> Tensor:
    """[..., 4, 4] of any group's element."""
    M = element.matrix()
    out = torch.eye(4, dtype=M.dtype).expand(*M.shape[:-2], 4, 4).clone()
    out[..., : M.shape[-2], : M.shape[-1]] = M
    return out


@pytest.mark.parametrize("group", GROUPS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_axioms_hold(group: type[SO3], seed: int) -> None:
    a, b, c = (group.exp(twist(group, 3 * seed + k)) for k in range(3))
    one = group.Identity(1, dtype=torch.float64)
    X = torch.randn(1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(((a * b) * c).matrix(), (a * (b * c)).matrix(), **close)
    torch.testing.assert_close((a * a.inv()).matrix(), one.matrix(), **close)
    torch.testing.assert_close((one * a).data, a.data, **close)
    torch.testing.assert_close((a * b) * X, a * (b * X), **close)
    torch.testing.assert_close(matrix4(a * b), matrix4(a) @ matrix4(b), **close)
    homogeneous = torch.cat([X, torch.ones(1, 1)], -1)
    torch.testing.assert_close(a * X, (matrix4(a) @ homogeneous[..., None])[:, :3, 0], **close)


@pytest.mark.parametrize("group", GROUPS)
def test_adjoint_moves_a_twist_through(group: type[SO3]) -> None:
    T, xi = group.exp(twist(group, 1, count=5)), twist(group, 2, count=5)
    left = T * group.exp(xi)
    torch.testing.assert_close(left.matrix(), T.retr(T.adj(xi)).matrix(), rtol=1e-9, atol=1e-9)
    dual = twist(group, 3, count=5)
    torch.testing.assert_close((T.adj(xi) * dual).sum(1), (xi * T.adjT(dual)).sum(1))


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("angle", ANGLES)
def test_exp_is_the_matrix_exponential_and_log_its_inverse(group: type[SO3], angle: float) -> None:
    xi = twist(group, 4, count=20)
    at = 0 if group is SO3 else 3
    rotation = xi[:, at : at + 3]
    xi[:, at : at + 3] = angle * rotation / rotation.norm(dim=1, keepdim=True)
    T = group.exp(xi)
    torch.testing.assert_close(matrix4(T), oracle(xi), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(T.log(), xi, rtol=1e-8, atol=1e-8 if angle > 3 else 1e-11)


@pytest.mark.parametrize("angle", [*ANGLES, torch.pi])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_pose_alone_is_as_in_a_batch(angle: float, sign: float) -> None:
    """Single float64 poses go another way; both signs of a quaternion are one pose."""
    xi = twist(SE3, 12, count=20)
    xi[:, 3:] *= angle / xi[:, 3:].norm(dim=1, keepdim=True)
    T, other = lie.se3_exp(xi), lie.se3_exp(twist(SE3, 13, count=20))
    T[:, 3:] *= sign
    assert one_pose.is_one(T[0]) and not one_pose.is_one(T)
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(alone(lie.se3_inv, T), lie.se3_inv(T), **close)
    torch.testing.assert_close(alone(lie.se3_mul, T, other), lie.se3_mul(T, other), **close)
    torch.testing.assert_close(alone(lie.se3_mul, other, T), lie.se3_mul(other, T), **close)
    close = {"rtol": 1e-8, "atol": 1e-8 if angle > 3 else 1e-11}
    got, wanted = alone(lie.se3_log, T), lie.se3_log(T)
    torch.testing.assert_close(got[:, 3:].norm(dim=1), wanted[:, 3:].norm(dim=1), **close)
    if angle < torch.pi:
        torch.testing.assert_close(got, wanted, **close)
    torch.testing.assert_close(lie.se3_matrix(lie.se3_exp(got)), lie.se3_matrix(T), **close)


def alone(function: Callable[..., Tensor], *poses: Tensor) -> Tensor:
    """A function of poses [N, 7], given one at a time."""
    return torch.stack([function(*each) for each in zip(*poses, strict=True)])


def test_only_a_single_float64_pose_without_gradient_is_one() -> None:
    T = lie.se3_exp(torch.zeros(6, dtype=torch.float64))
    assert one_pose.is_one(T)
    assert not any(one_pose.is_one(t) for t in (T.float(), T[None], T.clone().requires_grad_()))


@pytest.mark.parametrize("sigma", [0.0, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 0.3, 1.0])
@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-4, 1e-2, 1.0, 3.14])
def test_float32_keeps_its_digits(sigma: float, angle: float) -> None:
    xi = twist(Sim3, 5, count=50)
    xi[:, 3:6] *= angle / xi[:, 3:6].norm(dim=1, keepdim=True)
    xi[:, 6] = sigma
    xi = xi.float()
    T = Sim3.exp(xi)
    torch.testing.assert_close(T.matrix().double(), oracle(xi), rtol=1e-6, atol=4e-6)
    tolerance = 2e-3 if angle > 3 else 8e-6
    torch.testing.assert_close(T.log(), xi, rtol=tolerance, atol=tolerance)


def test_tiny_increments_are_exact_to_float32() -> None:
    xi = (1e-5 * twist(Sim3, 6, count=100)).float()
    error = (Sim3.exp(xi).matrix().double() - oracle(xi))[:, :3, 3].abs().max()
    assert error < 1e-5 * 1e-6


@pytest.mark.parametrize("angle", [0.0, 1e-4, 1.0, 3.0, torch.pi])
def test_quaternion_of_a_matrix_round_trips_about_every_axis(angle: float) -> None:
    axes = torch.cat([torch.eye(3), -torch.eye(3), torch.randn(20, 3)]).double()
    q = lie.so3_exp(angle * axes / axes.norm(dim=1, keepdim=True))
    back = lie.so3_from_matrix(lie.so3_matrix(q))
    torch.testing.assert_close(lie.so3_matrix(back), lie.so3_matrix(q), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((back * q).sum(1).abs(), torch.ones(26).double())


@pytest.mark.parametrize("group", GROUPS)
def test_matrices_round_trip(group: type[SO3]) -> None:
    T = group.exp(twist(group, 7, count=10))
    torch.testing.assert_close(group.from_matrix(T.matrix()).matrix(), T.matrix())


@pytest.mark.parametrize("group", GROUPS)
def test_interpolation_meets_both_ends_at_constant_speed(group: type[SO3]) -> None:
    name = group.__name__.lower()
    interpolate = getattr(lie, f"{name}_interpolate")
    a, b = group.exp(twist(group, 8, 0.5)), group.exp(twist(group, 9, 0.5))
    torch.testing.assert_close(group(interpolate(a.data, b.data, 0.0)).matrix(), a.matrix())
    torch.testing.assert_close(group(interpolate(a.data, b.data, 1.0)).matrix(), b.matrix())
    middle = group(interpolate(a.data, b.data, torch.tensor([0.5])))
    torch.testing.assert_close((middle * a.inv()).log(), (b * middle.inv()).log())


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3)])
def test_batches_of_any_shape_broadcast(group: type[SO3], shape: tuple[int, ...]) -> None:
    T = group.Random(*shape, dtype=torch.float64)
    one = group.Random(dtype=torch.float64)
    assert (T * one).data.shape == (one * T).data.shape == (*shape, group.size)
    assert (T * torch.zeros(3).double()).shape == (one * torch.zeros(*shape, 3).double()).shape
    assert T.inv().log().shape == (*shape, group.degrees)
    assert T.adj(torch.zeros(group.degrees).double()).shape == (*shape, group.degrees)


@pytest.mark.parametrize("group", GROUPS)
def test_gradients_pass_the_identity(group: type[SO3]) -> None:
    xi = torch.zeros(group.degrees, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda x: group.exp(x).log(), xi)
    torch.testing.assert_close(J, torch.eye(group.degrees, dtype=torch.float64))


def test_conversions_between_se3_and_sim3() -> None:
    T = lie.se3_exp(twist(SE3, 10, count=4))
    similar = lie.se3_to_sim3(T)
    torch.testing.assert_close(lie.sim3_matrix(similar), lie.se3_matrix(T))
    torch.testing.assert_close(lie.sim3_to_se3(similar), T)


def test_wrong_data_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"SE3: want data \[..., 7\], got \[3, 8\]"):
        SE3(torch.zeros(3, 8))


def test_agrees_with_princetons_lietorch_where_it_is_installed() -> None:
    try:
        theirs = importlib.import_module("lietorch")
    except ImportError:
        pytest.skip("lietorch is not installed")
    if not hasattr(theirs, "Sim3"):
        pytest.skip("this lietorch is another package of the same name")
    xi = twist(Sim3, 11, 0.3, count=10)
    torch.testing.assert_close(Sim3.exp(xi).data, theirs.Sim3.exp(xi).data, rtol=1e-6, atol=1e-6)
    ours, other = SE3.exp(xi[:, :6]), theirs.SE3.exp(xi[:, :6])
    torch.testing.assert_close(ours.adjT(xi[:, :6]), other.adjT(xi[:, :6]), rtol=1e-6, atol=1e-6)
