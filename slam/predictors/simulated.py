"""A testing tool: what a two-view pointmap network would say, made from true depth and poses.

`SimulatedNetwork` stands in for the network of `slam.networks` where its weights are not at hand,
and shows how the system fares as the network gets worse. `encode` reads one frame, `decode` works
from what two encodes read: nothing else of the recording can leak in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from slam.camera import Camera, pixel_grid
from slam.frame import PointmapView
from slam.lie import se3_act, se3_inv, se3_mul, so3_act
from slam.pointmap_settings import SimulatedSettings
from slam.predictors.posed_depth import PosedDepth
from slam.predictors.simulated_noise import (
    Draw,
    blobs,
    direction_field,
    generator,
    normal,
    smooth_field,
    sphere_points,
)

FREQUENCIES = 12  # of the descriptors: 24 channels
SEEN = 0.05  # relative difference of depth up to which the other image shows the same surface
UNSEEN = 2.0  # times the noise where it does not


@dataclass(frozen=True, slots=True)
class SimulatedTokens:
    """What `encode` keeps of B frames."""

    index: tuple[int, ...]  # B, of the frames
    camera: Camera  # pinhole, of all of them
    depth: Tensor  # [B, H, W] float64, along the axis, m; of pixels without: the frame's median
    known: Tensor  # [B, H, W] bool, where depth was measured
    T_WC: Tensor  # [B, 7] float64 SE(3)


@dataclass(frozen=True, slots=True)
class _Frame:
    """One frame of the tokens."""

    index: int
    X_C: Tensor  # [H, W, 3] float64, true points
    known: Tensor  # [H, W] bool
    T_WC: Tensor  # [7] float64


class SimulatedNetwork:
    """Has the shape of a pointmap network: encode frames, decode pairs.

    Every output is a function of (settings, the two frames): the same pair gives the same bits in
    any order of calls.
    """

    def __init__(self, world: PosedDepth, settings: SimulatedSettings) -> None:
        """Args: world: true depth and pose of the frames; read by `encode` only."""
        self.world = world
        self.settings = settings
        camera = world.camera
        self._ray = camera.unproject(pixel_grid(camera.height, camera.width))

    def encode(self, indices: Sequence[int]) -> SimulatedTokens:
        """Read frames, each once. Raises ValueError for one without depth or pose."""
        views = [self.world.read(index) for index in indices]
        if not views:
            raise ValueError("encode: wanted at least one frame, got none")
        depth = torch.stack([view.depth for view in views]).double()
        known = depth > 0
        for index, valid in zip(indices, known, strict=True):
            if not valid.any():
                raise ValueError(f"frame {index}: wanted some depth, got an empty depth map")
        median = torch.stack([d[k].median() for d, k in zip(depth, known, strict=True)])
        return SimulatedTokens(
            index=tuple(int(index) for index in indices),
            camera=self.world.camera,
            depth=torch.where(known, depth, median[:, None, None]),
            known=known,
            T_WC=torch.stack([view.T_WC for view in views]),
        )

    def decode(
        self, tokens_1: SimulatedTokens, tokens_2: SimulatedTokens, size: tuple[int, int]
    ) -> tuple[PointmapView, PointmapView]:
        """Both views of B pairs, both in camera 1.

        Args: size: (H, W) px. Raises ValueError where it or the numbers of frames do not fit.
        """
        got = (self.world.camera.height, self.world.camera.width)
        if tuple(size) != got or len(tokens_1.index) != len(tokens_2.index):
            raise ValueError(
                f"decode: wanted size {got} and as many first frames as second, got {tuple(size)} "
                f"and {len(tokens_1.index)} with {len(tokens_2.index)}"
            )
        pairs = [
            self._decode(self._frame(tokens_1, b), self._frame(tokens_2, b))
            for b in range(len(tokens_1.index))
        ]
        first, second = zip(*pairs, strict=True)
        return _stacked(first), _stacked(second)

    def _frame(self, tokens: SimulatedTokens, b: int) -> _Frame:
        X_C = self._ray * tokens.depth[b, ..., None]
        return _Frame(tokens.index[b], X_C, tokens.known[b], tokens.T_WC[b])

    def _decode(self, one: _Frame, two: _Frame) -> tuple[PointmapView, PointmapView]:
        """One pair: own errors of each view, then what the pair's two views share."""
        settings, pair = self.settings, (one.index, two.index)
        first = self._view(one, two, (*pair, 1))
        second = self._view(two, one, (*pair, 2))
        T_12 = se3_mul(se3_inv(one.T_WC), two.T_WC)
        second = replace(second, X=se3_act(T_12, second.X))
        draw = generator(settings.seed, Draw.SCALE, *pair).standard_normal()
        scale = float(np.exp(settings.pair_scale * draw))
        draw = generator(settings.seed, Draw.FOCAL, *pair).standard_normal()
        wide = float(np.exp(-settings.focal * draw))
        factor = scale * torch.tensor([wide, wide, 1.0], dtype=torch.float64)
        return replace(first, X=first.X * factor), replace(second, X=second.X * factor)

    def _view(self, frame: _Frame, other: _Frame, key: tuple[int, int, int]) -> PointmapView:
        """One image's points in its own camera, with their confidences and descriptors."""
        settings, (height, width) = self.settings, frame.known.shape
        spread = self._spread(frame, other, key)
        X = self._with_errors(frame, spread, key)
        stream = generator(settings.seed, Draw.HOLES, *key)
        hole = blobs(stream, height, width, settings.holes) | ~frame.known
        confidence = torch.where(hole, 0.0, 1 + settings.confidence / spread**2)
        return PointmapView(X, confidence, self._descriptor(frame, key), confidence)

    def _spread(self, frame: _Frame, other: _Frame, key: tuple[int, int, int]) -> Tensor:
        """Noise [H, W] of a pixel over the image's rms; more where the other image sees nothing."""
        stream = generator(self.settings.seed, Draw.SPREAD, *key)
        spread = (self.settings.noise_spread * smooth_field(stream, *frame.known.shape)).exp()
        spread = spread / spread.square().mean().sqrt()
        return torch.where(self._is_seen(frame, other), spread, UNSEEN * spread)

    def _is_seen(self, frame: _Frame, other: _Frame) -> Tensor:
        """Pixels [H, W] of a frame whose surface the other one shows too."""
        X = se3_act(se3_mul(se3_inv(other.T_WC), frame.T_WC), frame.X_C)
        camera, z = self.world.camera, X[..., 2]
        u, v = camera.project(X).round().unbind(-1)
        inside = (z > 0) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        place = torch.where(inside, v * camera.width + u, 0.0).long()
        there = other.X_C[..., 2].flatten()[place]
        return inside & other.known.flatten()[place] & ((there - z).abs() < SEEN * z)

    def _with_errors(self, frame: _Frame, spread: Tensor, key: tuple[int, int, int]) -> Tensor:
        """Points [H, W, 3] float64 in the frame's camera, wrong as the settings say."""
        settings, (height, width) = self.settings, frame.known.shape
        along, *across = normal(generator(settings.seed, Draw.NOISE, *key), 3, height, width)
        log_distance = settings.noise * spread * along
        warp = smooth_field(generator(settings.seed, Draw.WARP, *key), height, width)
        log_distance += settings.warp * warp
        log_distance += settings.view_bias * self._view_bias(frame)
        stream = generator(settings.seed, Draw.WRONG, *key)
        region = blobs(stream, height, width, settings.wrong)
        side = 1.0 if stream.uniform() < 0.5 else -1.0
        log_distance += torch.where(region, side * settings.wrong_depth, 0.0)
        X = frame.X_C * log_distance.exp()[..., None]
        if settings.ray_noise == 0:
            return X
        turned = settings.ray_noise * (spread * torch.stack(across)).movedim(0, -1)
        return X + _tangent(X, turned)

    def _view_bias(self, frame: _Frame) -> Tensor:
        """Of unit rms over all directions; no pair, no pixel, only the direction matters."""
        if self.settings.view_bias == 0:
            return torch.zeros_like(frame.X_C[..., 0])
        direction = so3_act(frame.T_WC[3:], frame.X_C)
        unit = direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
        return direction_field(generator(self.settings.seed, Draw.BIAS), unit)

    def _descriptor(self, frame: _Frame, key: tuple[int, int, int]) -> Tensor:
        """Unit descriptors [H, W, 24] of the true surface points."""
        settings = self.settings
        X_W = se3_act(frame.T_WC, frame.X_C)
        descriptor = surface_descriptor(X_W, settings.finest, settings.coarsest)
        if settings.descriptor_noise == 0:
            return descriptor
        stream = generator(settings.seed, Draw.DESCRIPTOR, *key)
        noise = normal(stream, *descriptor.shape) / descriptor.shape[-1] ** 0.5
        descriptor = descriptor + settings.descriptor_noise * noise
        return descriptor / torch.linalg.vector_norm(descriptor, dim=-1, keepdim=True)


def surface_descriptor(X_W: Tensor, finest: float, coarsest: float) -> Tensor:
    """A smooth positional encoding [..., 24] of points [..., 3], of unit length.

    The product of two is the mean of cos(k (X - X')) over waves k of lengths from finest to
    coarsest (m) in as many directions: 1 where the points agree, less anywhere else.
    """
    direction = sphere_points(2 * FREQUENCIES)[:FREQUENCIES]  # a wave and its reverse are one
    shuffled = 5 * np.arange(FREQUENCIES) % FREQUENCIES  # no end of the sphere has all the fine
    wavelength = np.geomspace(finest, coarsest, FREQUENCIES)[shuffled]
    wave = torch.from_numpy(2 * np.pi / wavelength[:, None] * direction)
    angle = X_W @ wave.T
    return torch.cat([angle.cos(), angle.sin()], -1) / FREQUENCIES**0.5


def _tangent(X: Tensor, turned: Tensor) -> Tensor:
    """Displacements [..., 3] of points by small angles [..., 2] across their rays."""
    right = torch.stack([X[..., 2], torch.zeros_like(X[..., 0]), -X[..., 0]], -1)
    right = right / torch.linalg.vector_norm(right, dim=-1, keepdim=True)
    down = torch.linalg.cross(X, right)  # as long as X
    distance = torch.linalg.vector_norm(X, dim=-1, keepdim=True)
    return turned[..., :1] * distance * right + turned[..., 1:] * down


def _stacked(views: Sequence[PointmapView]) -> PointmapView:
    """B views as one batch, float32."""
    names = [one.name for one in fields(PointmapView)]
    stacks = (torch.stack([getattr(view, name) for view in views]).float() for name in names)
    return PointmapView(*stacks)
