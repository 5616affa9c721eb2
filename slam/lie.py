"""SO(3), SE(3) and Sim(3) on batched tensors, and the conventions of the whole project.

Poses: `T_AB` takes points of B to A, X_A = T_AB X_B; touching letters cancel, T_AC = T_AB T_BC.
`T_WC` takes camera points to the world, `T_CW` is its inverse, `T_ji` takes points of camera i to
camera j. A camera looks along +z, x right, y down; pixel (u, v) = (column, row), centres at
integers. Lengths in metres up to scale, angles in rad.

Data (last dimension, as in TUM's files and Princeton's lietorch): SO(3) [qx qy qz qw],
SE(3) [tx ty tz qx qy qz qw], Sim(3) [tx ty tz qx qy qz qw s], x -> s R x + t. Twists: SO(3)
rotation (3), SE(3) (translation, rotation), Sim(3) (translation, rotation, log scale).
Increments are left perturbations, T <- exp(xi) T; the adjoint obeys T exp(xi) = exp(Ad(T) xi) T.

All functions take leading batch dimensions, which broadcast, keep dtype and device, and let
gradients through. Quaternions are taken to be of unit length; products stay so up to rounding.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor

from slam import one_pose

_NODES, _WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(8))


def so3_exp(phi: Tensor) -> Tensor:
    """Quaternion [..., 4] of a rotation vector [..., 3]."""
    half = 0.5 * _norm(phi)
    return torch.cat([0.5 * _sinc(half) * phi, half.cos()], -1)


def so3_log(q: Tensor) -> Tensor:
    """Rotation vector [..., 3] of a quaternion, angle in [0, pi]."""
    q = torch.where(q[..., 3:] < 0, -q, q)
    v, w = q[..., :3], q[..., 3:]
    n = _norm(v)
    small = n < 1e-3
    n_safe = torch.where(small, torch.ones_like(n), n)
    w_safe = torch.where(small, w, torch.ones_like(w))
    series = 2 / w_safe - (2 / 3) * n * n / w_safe**3 + 0.4 * n**4 / w_safe**5
    return v * torch.where(small, series, 2 * torch.atan2(n_safe, w) / n_safe)


def so3_mul(a: Tensor, b: Tensor) -> Tensor:
    """Quaternion of the rotation b followed by a."""
    a, b = _broadcast(a, b)
    av, aw, bv, bw = a[..., :3], a[..., 3:], b[..., :3], b[..., 3:]
    vector = aw * bv + bw * av + torch.linalg.cross(av, bv)
    return torch.cat([vector, aw * bw - (av * bv).sum(-1, keepdim=True)], -1)


def so3_inv(q: Tensor) -> Tensor:
    """The inverse rotation."""
    return torch.cat([-q[..., :3], q[..., 3:]], -1)


def so3_act(q: Tensor, X: Tensor) -> Tensor:
    """Rotates points [..., 3]."""
    u, X = torch.broadcast_tensors(q[..., :3], X)
    c = 2 * torch.linalg.cross(u, X)
    return X + q[..., 3:] * c + torch.linalg.cross(u, c)


def so3_matrix(q: Tensor) -> Tensor:
    """Rotation matrix [..., 3, 3] of a quaternion, which is normalised on the way."""
    x, y, z, w = (q / _norm(q)).unbind(-1)
    rows = [
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def so3_from_matrix(R: Tensor) -> Tensor:
    """Unit quaternion [..., 4] with w >= 0 of a rotation matrix [..., 3, 3]."""
    xx, yy, zz = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    a, b, c = R[..., 2, 1], R[..., 0, 2], R[..., 1, 0]  # sums and differences with their mirrors
    d, e, f = R[..., 1, 2], R[..., 2, 0], R[..., 0, 1]
    # 4 q q^T, row by row; the row of the largest component is divided by it without cancellation.
    rows = [
        (1 + xx - yy - zz, c + f, b + e, a - d),
        (c + f, 1 - xx + yy - zz, a + d, b - e),
        (b + e, a + d, 1 - xx - yy + zz, c - f),
        (a - d, b - e, c - f, 1 + xx + yy + zz),
    ]
    outer = torch.stack([torch.stack(row, -1) for row in rows], -2)
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = outer.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    q = q / _norm(q)
    return torch.where(q[..., 3:] < 0, -q, q)


def so3_adjoint(q: Tensor) -> Tensor:
    """Adjoint [..., 3, 3]: the rotation matrix itself."""
    return so3_matrix(q)


def hat(v: Tensor) -> Tensor:
    """The matrix [..., 3, 3] of the cross product with v [..., 3]."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [(zero, -z, y), (z, zero, -x), (-y, x, zero)]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def sim3_exp(xi: Tensor) -> Tensor:
    """Sim(3) [..., 8] of a twist [..., 7]; accurate for |log scale| up to about 2."""
    tau, phi, sigma = xi[..., :3], xi[..., 3:6], xi[..., 6:]
    A, B, C = _integrals(_norm(phi), sigma)
    c = torch.linalg.cross(phi, tau)
    t = C * tau + A * c + B * torch.linalg.cross(phi, c)
    return torch.cat([t, so3_exp(phi), sigma.exp()], -1)


def sim3_log(T: Tensor) -> Tensor:
    """Twist [..., 7] of a Sim(3), angle in [0, pi]."""
    t, phi, sigma = T[..., :3], so3_log(T[..., 3:7]), T[..., 7:].log()
    angle = _norm(phi)
    A, B, C = _integrals(angle, sigma)
    R = C - B * angle * angle
    den = R * R + A * A * angle * angle
    c = torch.linalg.cross(phi, t)
    # W^-1 = I/C - A/den [phi]x + (A^2 - R B)/(C den) [phi]x^2
    tau = t / C - A / den * c + (A * A - R * B) / (C * den) * torch.linalg.cross(phi, c)
    return torch.cat([tau, phi, sigma], -1)


def sim3_mul(a: Tensor, b: Tensor) -> Tensor:
    """The Sim(3) b followed by a."""
    t = sim3_act(a, b[..., :3])
    q = so3_mul(a[..., 3:7], b[..., 3:7])
    return torch.cat([t, q, (a[..., 7:] * b[..., 7:]).expand(*q.shape[:-1], 1)], -1)


def sim3_inv(T: Tensor) -> Tensor:
    """The inverse similarity."""
    q, s = so3_inv(T[..., 3:7]), 1 / T[..., 7:]
    return torch.cat([-s * so3_act(q, T[..., :3]), q, s], -1)


def sim3_act(T: Tensor, X: Tensor) -> Tensor:
    """Moves points [..., 3]."""
    return T[..., 7:] * so3_act(T[..., 3:7], X) + T[..., :3]


def sim3_matrix(T: Tensor) -> Tensor:
    """Homogeneous matrix [..., 4, 4] = [s R, t; 0, 1]."""
    return _homogeneous(T[..., 7, None, None] * so3_matrix(T[..., 3:7]), T[..., :3])


def sim3_from_matrix(M: Tensor) -> Tensor:
    """Sim(3) [..., 8] of a homogeneous matrix [..., 4, 4] with det > 0."""
    sR = M[..., :3, :3]
    s = torch.linalg.det(sR)[..., None] ** (1 / 3)
    return torch.cat([M[..., :3, 3], so3_from_matrix(sR / s[..., None]), s], -1)


def sim3_adjoint(T: Tensor) -> Tensor:
    """Adjoint [..., 7, 7]: T exp(xi) = exp(Ad xi) T."""
    t, R, s = T[..., :3], so3_matrix(T[..., 3:7]), T[..., 7, None, None]
    zero = torch.zeros_like(R)
    column = torch.zeros_like(t[..., None])
    top = torch.cat([s * R, hat(t) @ R, -t[..., None]], -1)
    middle = torch.cat([zero, R, column], -1)
    bottom = torch.cat([zero[..., :1, :], zero[..., :1, :], torch.ones_like(s)], -1)
    return torch.cat([top, middle, bottom], -2)


def se3_to_sim3(T: Tensor) -> Tensor:
    """The same motion as a Sim(3) of scale 1."""
    return torch.cat([T, torch.ones_like(T[..., :1])], -1)


def sim3_to_se3(T: Tensor) -> Tensor:
    """Rotation and translation of a Sim(3), its scale left out."""
    return T[..., :7]


def se3_exp(xi: Tensor) -> Tensor:
    """SE(3) [..., 7] of a twist [..., 6]."""
    return sim3_exp(torch.cat([xi, torch.zeros_like(xi[..., :1])], -1))[..., :7]


def se3_log(T: Tensor) -> Tensor:
    """Twist [..., 6] of an SE(3), angle in [0, pi]."""
    if one_pose.is_one(T):
        return one_pose.log(T)
    return sim3_log(se3_to_sim3(T))[..., :6]


def se3_mul(a: Tensor, b: Tensor) -> Tensor:
    """The motion b followed by a."""
    if one_pose.is_one(a) and one_pose.is_one(b):
        return one_pose.mul(a, b)
    return torch.cat([se3_act(a, b[..., :3]), so3_mul(a[..., 3:], b[..., 3:])], -1)


def se3_inv(T: Tensor) -> Tensor:
    """The inverse motion."""
    if one_pose.is_one(T):
        return one_pose.inv(T)
    q = so3_inv(T[..., 3:])
    return torch.cat([-so3_act(q, T[..., :3]), q], -1)


def se3_act(T: Tensor, X: Tensor) -> Tensor:
    """Moves points [..., 3]."""
    return so3_act(T[..., 3:], X) + T[..., :3]


def se3_matrix(T: Tensor) -> Tensor:
    """Homogeneous matrix [..., 4, 4] = [R, t; 0, 1]."""
    return _homogeneous(so3_matrix(T[..., 3:]), T[..., :3])


def se3_from_matrix(M: Tensor) -> Tensor:
    """SE(3) [..., 7] of a homogeneous matrix [..., 4, 4] (or its upper three rows)."""
    return torch.cat([M[..., :3, 3], so3_from_matrix(M[..., :3, :3])], -1)


def se3_adjoint(T: Tensor) -> Tensor:
    """Adjoint [..., 6, 6]: T exp(xi) = exp(Ad xi) T."""
    return sim3_adjoint(se3_to_sim3(T))[..., :6, :6]


def so3_interpolate(a: Tensor, b: Tensor, share: Tensor | float) -> Tensor:
    """From rotation a (share 0) to b (share 1) along the shorter arc, at constant speed."""
    return so3_mul(so3_exp(_share(share, a) * so3_log(so3_mul(b, so3_inv(a)))), a)


def se3_interpolate(a: Tensor, b: Tensor, share: Tensor | float) -> Tensor:
    """From motion a (share 0) to b (share 1) along a screw; share: number or [...]."""
    return se3_mul(se3_exp(_share(share, a) * se3_log(se3_mul(b, se3_inv(a)))), a)


def sim3_interpolate(a: Tensor, b: Tensor, share: Tensor | float) -> Tensor:
    """From similarity a (share 0) to b (share 1) at a constant twist; share: number or [...]."""
    return sim3_mul(sim3_exp(_share(share, a) * sim3_log(sim3_mul(b, sim3_inv(a)))), a)


def _share(share: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(share, dtype=like.dtype, device=like.device)[..., None]


def _broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the same leading dimensions; not by torch.broadcast_shapes, which imports sympy."""
    if a.shape[:-1] == b.shape[:-1]:
        return a, b
    shape = torch.broadcast_tensors(a[..., :1], b[..., :1])[0].shape[:-1]
    return a.expand(*shape, a.shape[-1]), b.expand(*shape, b.shape[-1])


def _norm(v: Tensor) -> Tensor:
    """Length [..., 1], with a gradient of 0 where the vector is 0."""
    square = (v * v).sum(-1, keepdim=True)
    zero = square == 0
    return torch.where(zero, square, torch.where(zero, torch.ones_like(square), square).sqrt())


def _sinc(x: Tensor) -> Tensor:
    """sin(x) / x."""
    return torch.sinc(x / torch.pi)


def _homogeneous(A: Tensor, t: Tensor) -> Tensor:
    top = torch.cat([A, t[..., None]], -1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 0, 3] = 1
    return torch.cat([top, bottom], -2)


def _integrals(angle: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A, B, C of W = C I + A [phi]x + B [phi]x^2, which makes t = W tau in Sim(3)'s exp.

    C, A, B = integrals over x in [0, 1] of e^(sigma x) times 1, sin(angle x) / angle and
    (1 - cos(angle x)) / angle^2, by 8 Gauss-Legendre nodes. The textbook's closed forms cancel: in
    float32 they put 0.5 % of error on the translation of small increments.
    """
    nodes = ((_NODES + 1) / 2).to(angle)
    e = (_WEIGHTS / 2).to(angle) * (sigma * nodes).exp()
    turn = angle * nodes
    A = (e * nodes * _sinc(turn)).sum(-1, keepdim=True)
    B = (e * 0.5 * nodes * nodes * _sinc(0.5 * turn) ** 2).sum(-1, keepdim=True)
    return A, B, e.sum(-1, keepdim=True)


class SO3:
    """Rotations with lietorch's method names: a thin cover over the functions of this module."""

    size, degrees = 4, 3  # numbers of the data, of a twist
    _exp, _log = staticmethod(so3_exp), staticmethod(so3_log)
    _mul, _inv = staticmethod(so3_mul), staticmethod(so3_inv)
    _act, _matrix = staticmethod(so3_act), staticmethod(so3_matrix)
    _from_matrix, _adjoint = staticmethod(so3_from_matrix), staticmethod(so3_adjoint)

    def __init__(self, data: Tensor) -> None:
        if data.shape[-1:] != (self.size,):
            raise ValueError(
                f"{type(self).__name__}: want data [..., {self.size}], got {list(data.shape)}; "
                "see slam.lie for the layout"
            )
        self.data = data

    @classmethod
    def exp(cls, xi: Tensor) -> Self:
        """The element of a twist [..., degrees]."""
        return cls(cls._exp(xi))

    @classmethod
    def Identity(
        cls,
        *shape: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Self:
        """Identities [*shape]."""
        return cls(cls._exp(torch.zeros(*shape, cls.degrees, dtype=dtype, device=device)))

    @classmethod
    def Random(cls, *shape: int, sigma: float = 1.0, dtype: torch.dtype = torch.float32) -> Self:
        """exp of normally distributed twists; from torch's generator."""
        return cls(cls._exp(sigma * torch.randn(*shape, cls.degrees, dtype=dtype)))

    @classmethod
    def from_matrix(cls, M: Tensor) -> Self:
        """The element of a matrix, as `matrix` gives it."""
        return cls(cls._from_matrix(M))

    @property
    def shape(self) -> torch.Size:
        """Batch dimensions."""
        return self.data.shape[:-1]

    def log(self) -> Tensor:
        """Twist [..., degrees]."""
        return self._log(self.data)

    def inv(self) -> Self:
        """The inverse."""
        return type(self)(self._inv(self.data))

    def mul(self, other: Self) -> Self:
        """The product self other."""
        return type(self)(self._mul(self.data, other.data))

    def retr(self, xi: Tensor) -> Self:
        """exp(xi) self."""
        return type(self)(self._mul(self._exp(xi), self.data))

    def act(self, X: Tensor) -> Tensor:
        """Moves points [..., 3]."""
        return self._act(self.data, X)

    def adj(self, xi: Tensor) -> Tensor:
        """Ad(self) xi."""
        return (self._adjoint(self.data) @ xi[..., None]).squeeze(-1)

    def adjT(self, xi: Tensor) -> Tensor:
        """Transpose of Ad(self) times xi."""
        return (self._adjoint(self.data).mT @ xi[..., None]).squeeze(-1)

    def matrix(self) -> Tensor:
        """The matrix: [..., 3, 3] for a rotation, [..., 4, 4] otherwise."""
        return self._matrix(self.data)

    def __mul__(self, other: Self | Tensor) -> Self | Tensor:
        return self.act(other) if isinstance(other, Tensor) else self.mul(other)

    def __getitem__(self, index: int | slice | Tensor) -> Self:
        return type(self)(self.data[index])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.data})"


class SE3(SO3):
    """Rigid motions."""

    size, degrees = 7, 6
    _exp, _log = staticmethod(se3_exp), staticmethod(se3_log)
    _mul, _inv = staticmethod(se3_mul), staticmethod(se3_inv)
    _act, _matrix = staticmethod(se3_act), staticmethod(se3_matrix)
    _from_matrix, _adjoint = staticmethod(se3_from_matrix), staticmethod(se3_adjoint)


class Sim3(SO3):
    """Similarities."""

    size, degrees = 8, 7
    _exp, _log = staticmethod(sim3_exp), staticmethod(sim3_log)
    _mul, _inv = staticmethod(sim3_mul), staticmethod(sim3_inv)
    _act, _matrix = staticmethod(sim3_act), staticmethod(sim3_matrix)
    _from_matrix, _adjoint = staticmethod(sim3_from_matrix), staticmethod(sim3_adjoint)
