"""The default predictor: dense inverse search flow (Kroeger et al., ECCV 2016), no weights, CPU."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from slam import kernels
from slam.config import FlowSettings
from slam.frame import Correspondence, Features, Image, PairGuess, PairPrediction, Pointmap
from slam.predictors.grid import Grid, working_size
from slam.predictors.photometry import at_sharpness, equalise, sharpness_ratio

TINY = 1e-6  # grey^2/px^2


class Effort(IntEnum):
    """How far down a pair of images is searched."""

    GUESS = 0  # not at all: Lucas-Kanade from the guess
    TRACKING = 1
    FAINT = 2  # tracking of an image that shows little
    KEYFRAME = 3  # also a pair that tracking finds hard

    @property
    def tracks(self) -> bool:
        """Whether it is of a frame that follows another."""
        return self in (Effort.TRACKING, Effort.FAINT)


class FlowPredictor:
    """Correspondences from forward and backward DIS flow with a variance for each.

    Deterministic as long as OpenCV runs one thread (`cv2.setNumThreads(1)`): DIS splits an image
    by its thread count. The parallelism is here instead: both directions at once.
    """

    def __init__(self, width: int, height: int, settings: FlowSettings) -> None:
        """Args: width, height: size in px of the images to come."""
        self.settings = settings
        self.grid = Grid(*working_size(width, height, settings.long_side), settings.grid_stride)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="flow")
        self._local = threading.local()

    def close(self) -> None:
        """Ends the helper thread."""
        self._pool.shutdown()

    def encode(self, image: Image) -> Features:
        """Grey and colour working images and the texture at the grid pixels."""
        size = (self.grid.width, self.grid.height)
        return self.features(cv2.resize(image.rgb.numpy(), size, interpolation=cv2.INTER_AREA))

    def features(self, rgb: np.ndarray) -> Features:
        """The same from a working image [h, w, 3] uint8."""
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        texture = self.grid.sample(torch.from_numpy(smaller_eigenvalue(grey)))
        return Features(torch.from_numpy(grey), torch.from_numpy(rgb), texture.contiguous())

    def single(self, features: Features) -> Pointmap:
        """Constant depth 1 with confidence 0: one image says nothing of depth without weights."""
        height, width = features.grey.shape
        return Pointmap(torch.ones(height, width, 3), torch.zeros(height, width))

    def pair(
        self,
        keyframe: Features,
        frame: Features,
        guess: PairGuess,
        *,
        fine: bool = False,
        one_thread: bool = False,
    ) -> PairPrediction:
        """Flow both ways, checked against each other (see `Predictor.pair`).

        Between keyframes the map's guess is good enough for Lucas-Kanade alone, which is less
        biased than after a patch search. Where little of the view is matched, it moved far or its
        parts move apart, or the guess is wrong: such a pair is searched, or searched finer.
        """
        tracking = Effort.FAINT if self._faint(keyframe) else Effort.TRACKING
        efforts: tuple[Effort, ...] = (tracking, Effort.KEYFRAME)
        if fine:
            guided = guess.forward is not None and guess.backward is not None
            efforts = (Effort.GUESS, Effort.KEYFRAME) if guided else (Effort.KEYFRAME,)
        found = self._measure(keyframe, frame, guess, efforts[0], one_thread)
        for effort in efforts[1:]:
            if found.match_fraction >= self.settings.sparse:
                break
            finer = self._measure(keyframe, frame, guess, effort, one_thread)
            found = max(found, finer, key=lambda p: p.match_fraction)
        return found

    def _faint(self, features: Features) -> bool:
        """Whether an image shows so little that each of its measurements is needed."""
        clear = features.texture > self.settings.clear_texture
        return float(clear.float().mean()) < self.settings.clear

    def _measure(
        self,
        keyframe: Features,
        frame: Features,
        guess: PairGuess,
        effort: Effort,
        one_thread: bool,
    ) -> PairPrediction:
        first, second, gain = equalise(
            keyframe.grey, frame.grey, guess.forward, self.settings.exposure_tolerance
        )
        back = partial(self._flow, second, first, guess.backward, effort)
        task = None if one_thread else self._pool.submit(back)
        forward = self._flow(first, second, guess.forward, effort)
        backward = back() if task is None else task.result()
        ahead = self._correspondence(keyframe, forward, backward)
        behind = self._correspondence(frame, backward, forward)
        sharpness = sharpness_ratio(self.grid, keyframe.texture, frame.texture, gain, ahead)
        textured = int((keyframe.texture > self.settings.texture_threshold).sum())
        valid = ahead.weight > 0
        length = torch.linalg.vector_norm(ahead.target - self.grid.pixel, dim=-1)[valid]
        return PairPrediction(
            forward=at_sharpness(ahead, sharpness),
            backward=at_sharpness(behind, sharpness),
            flow=PairGuess(torch.from_numpy(forward), torch.from_numpy(backward)),
            match_fraction=float(valid.sum()) / max(textured, 1),
            median_flow=float(length.median()) if len(length) else 0.0,
            sharpness=sharpness,
        )

    def _flow(
        self, first: Tensor, second: Tensor, guess: Tensor | None, effort: Effort
    ) -> np.ndarray:
        """Flow [h, w, 2] px, from a guess, which stays as it is."""
        settings = self.settings
        start = np.empty(0) if guess is None else guess.numpy().copy()
        if effort is not Effort.GUESS:
            solver = self._solver(effort, guess is not None)
            start = solver.calc(first.numpy(), second.numpy(), start)
        flow = torch.from_numpy(start)
        if settings.half_size_iterations > 0 and effort is not Effort.KEYFRAME:
            flow = self._at_half_size(first, second, flow)
        iterations = settings.keyframe_iterations
        if effort.tracks:
            iterations = settings.tracking_iterations
        kernels.refine_flow(first, second, flow, radius=settings.window, iterations=iterations)
        return flow.numpy()

    def _at_half_size(self, first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
        """The flow [h, w, 2] px, refined where it is cheap: what is left is a fraction of a px."""
        size = (self.grid.width, self.grid.height)
        half = (size[0] // 2, size[1] // 2)
        small = resized(flow, half) / 2
        kernels.refine_flow(
            resized(first, half),
            resized(second, half),
            small,
            radius=self.settings.window,
            iterations=self.settings.half_size_iterations,
        )
        return 2 * resized(small, size, cv2.INTER_LINEAR)

    def _solver(self, effort: Effort, guided: bool) -> cv2.DISOpticalFlow:
        """A solver of this thread: they keep buffers and are not to be shared.

        Once given a flow to start from, one that is given none starts from the old one again
        (OpenCV 5.0): those with and without are kept apart.
        """
        if not hasattr(self._local, "solvers"):
            scales = {
                Effort.TRACKING: self.settings.tracking_finest_scale,
                Effort.FAINT: self.settings.keyframe_finest_scale,
                Effort.KEYFRAME: self.settings.keyframe_finest_scale,
            }
            self._local.solvers = {
                (each, is_guided): new_solver(self.settings, scale)
                for each, scale in scales.items()
                for is_guided in (False, True)
            }
        return self._local.solvers[effort, guided]

    def _correspondence(
        self, features: Features, flow: np.ndarray, back: np.ndarray
    ) -> Correspondence:
        """Targets of the grid pixels; variance from consistency and texture (flow-and-BA noise)."""
        settings, grid = self.settings, self.grid
        step = grid.sample(torch.from_numpy(flow))
        target = grid.pixel + step
        column, row = target.T[:, None].contiguous().numpy()
        found = cv2.remap(back, column, row, cv2.INTER_LINEAR, borderValue=(1e3, 1e3))[0]
        error = torch.linalg.vector_norm(step + torch.from_numpy(found), dim=-1)
        u, v = target.unbind(-1)
        inside = (u > 1) & (u < grid.width - 2) & (v > 1) & (v < grid.height - 2)
        valid = (
            inside
            & (error < settings.consistency)
            & (features.texture > settings.texture_threshold)
        )
        variance = (
            settings.noise_floor**2
            + (0.5 * error) ** 2
            + (settings.texture_noise / features.texture.clamp(min=TINY)) ** 2
        )
        return Correspondence(target.contiguous(), torch.where(valid, 1 / variance, 0.0))


def new_solver(settings: FlowSettings, finest_scale: int) -> cv2.DISOpticalFlow:
    """A DIS solver that stops at 1 / 2^finest_scale of the image."""
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    solver.setFinestScale(finest_scale)
    solver.setPatchStride(settings.patch_stride)
    solver.setGradientDescentIterations(settings.descents)
    solver.setVariationalRefinementIterations(settings.refinements)
    solver.setVariationalRefinementAlpha(settings.smoothness)
    solver.setVariationalRefinementGamma(settings.gradient)
    return solver


def resized(image: Tensor, size: tuple[int, int], how: int = cv2.INTER_AREA) -> Tensor:
    """An image [h, w, ...] at another size (width, height) px."""
    return torch.from_numpy(cv2.resize(image.numpy(), size, interpolation=how))


def smaller_eigenvalue(grey: np.ndarray) -> np.ndarray:
    """Smaller eigenvalue [h, w] of the structure tensor over 7x7 px, grey^2/px^2."""
    side, aperture = 7, 3
    summed = cv2.cornerMinEigenVal(grey, side, ksize=aperture)  # of 49 gradients, each times:
    times = 8 / (2 ** (aperture - 1) * side * 255)
    return summed * np.float32(1 / (times * side) ** 2)
