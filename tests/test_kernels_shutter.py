"""Taking a rolling shutter out of measurements: against a twin, and against exact simulation."""

from __future__ import annotations

import pytest
import reference
import reference_images
import torch
from torch import Tensor

from slam import kernels
from slam.kernels import Intrinsics
from slam.lie import se3_act, se3_exp

WIDTH, HEIGHT = 320, 240
K: Intrinsics = (250.0, 260.0, 157.0, 121.0)
T_JI = se3_exp(torch.tensor([0.2, -0.05, 0.1, 0.03, -0.05, 0.02]).double())
# A hand that moves fast, m/s and rad/s; nothing alike, so that a mix-up shows.
TWIST_I = torch.tensor([0.4, -0.3, 0.25, -0.5, 0.7, 0.35], dtype=torch.float64)
TWIST_J = torch.tensor([-0.2, 0.35, -0.3, 0.6, 0.3, -0.45], dtype=torch.float64)
READOUT = 0.025  # s


def scattered(count: int) -> tuple[Tensor, Tensor]:
    """Pixels [P, 2] and inverse depths [P]."""
    g = torch.Generator().manual_seed(count)
    pixel = torch.rand(count, 2, generator=g) * torch.tensor([WIDTH - 1.0, HEIGHT - 1.0])
    return pixel, 0.2 + torch.rand(count, generator=g)


def unrolled(
    pixel: Tensor,
    rho: Tensor,
    target: Tensor,
    readout: float,
    device: torch.device | None = None,
    twists: tuple[Tensor, Tensor] = (TWIST_I, TWIST_J),
    T_ji: Tensor = T_JI,
) -> Tensor:
    """Corrected targets on the CPU."""
    tensors = [a.float().to(device) for a in (pixel, rho, target)]
    return kernels.unroll_target(*tensors, T_ji, *twists, K, readout=readout, height=HEIGHT).cpu()


def rolling(X: Tensor, twist: Tensor, readout: float) -> Tensor:
    """Pixels [P, 2] where points [P, 3] of a moving camera's frame are when their row is read.

    The middle row is read at time 0, and row v at (v - middle) / HEIGHT of the readout after it;
    by the fixed point of that.
    """
    pixel = reference.project(X, K)
    for _ in range(15):
        seconds = (pixel[:, 1] - (HEIGHT - 1) / 2) * readout / HEIGHT
        pixel = reference.project(se3_act(se3_exp(twist * seconds[:, None]), X), K)
    return pixel


def errors(readout: float, **changes: Tensor) -> tuple[Tensor, Tensor]:
    """Distances [P] px of the flow to a global shutter's, as measured and as corrected."""
    pixel, rho = scattered(500)
    i, j = changes.get("i", TWIST_I), changes.get("j", TWIST_J)
    X_i = reference.rays(pixel.double(), K) / rho.double()[:, None]
    M = reference.pose_matrix(T_JI)
    X_j = X_i @ M[:3, :3].T + M[:3, 3]
    here, there = rolling(X_i, i, readout), rolling(X_j, j, readout)
    wanted = reference.project(X_j, K) - reference.project(X_i, K)
    corrected = unrolled(here, rho, there, readout, twists=(i, j))
    return (there - here - wanted).norm(dim=1), (corrected - here - wanted).norm(dim=1)


@pytest.mark.parametrize("count", [0, 1, 9, 300])
@pytest.mark.parametrize("readout", [READOUT, -0.04])
def test_unrolling_equals_its_twin(device: torch.device, count: int, readout: float) -> None:
    pixel, rho = scattered(count)
    target = pixel + 6 * torch.randn(count, 2, generator=torch.Generator().manual_seed(5))
    got = unrolled(pixel, rho, target, readout, device)
    want = reference_images.unrolled(
        pixel, rho, target, T_JI, (TWIST_I, TWIST_J), K, readout, HEIGHT
    )
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-4)
    assert count < 100 or (got - target).abs().max() > 1.0


@pytest.mark.parametrize("readout", [READOUT, -READOUT])
def test_corrected_targets_are_a_global_shutters(readout: float) -> None:
    """Of points whose rows were read from a moving camera, exactly simulated."""
    before, after = errors(readout)
    assert before.median() > 1.0
    assert after.median() < 0.04 * before.median() and after.max() < 0.2 * before.max()


def test_what_is_left_falls_with_the_square_of_the_readout() -> None:
    (_, whole), (_, half), (_, quarter) = (errors(READOUT / n) for n in (1, 2, 4))
    assert float(whole.mean() / half.mean()) == pytest.approx(4.0, rel=0.2)
    assert float(half.mean() / quarter.mean()) == pytest.approx(4.0, rel=0.2)


@pytest.mark.parametrize("axis", range(6))
@pytest.mark.parametrize("camera", ["i", "j"])
def test_every_part_of_either_cameras_motion_counts(camera: str, axis: int) -> None:
    still, moving = torch.zeros(6).double(), torch.zeros(6).double()
    moving[axis] = 0.5
    before, after = errors(READOUT, **({"i": still, "j": still} | {camera: moving}))
    assert before.mean() > 0.1 and after.mean() < 0.06 * before.mean()


def test_a_global_shutter_changes_nothing(device: torch.device) -> None:
    pixel, rho = scattered(50)
    target = pixel + 3.0
    assert torch.equal(unrolled(pixel, rho, target, 0.0, device), target)
    still = torch.zeros(6).double()
    same = unrolled(pixel, rho, target, READOUT, device, twists=(still, still))
    assert torch.equal(same, target)


def test_the_middle_row_needs_no_correction(device: torch.device) -> None:
    pixel, rho = scattered(50)
    pixel[:, 1] = (HEIGHT - 1) / 2
    target = pixel + torch.tensor([4.0, 0.0])
    torch.testing.assert_close(unrolled(pixel, rho, target, READOUT, device), target)


def test_a_shutter_from_below_is_corrected_the_other_way(device: torch.device) -> None:
    pixel, rho = scattered(50)
    target = pixel + torch.tensor([4.0, -7.0])
    down, up = (unrolled(pixel, rho, target, r, device) - target for r in (READOUT, -READOUT))
    torch.testing.assert_close(up, -down, rtol=0, atol=1e-4)


def test_points_behind_the_other_camera_give_numbers(device: torch.device) -> None:
    pixel, rho = scattered(20)
    behind = torch.tensor([0.0, 0.0, -30.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    got = unrolled(pixel, rho, pixel, READOUT, device, T_ji=behind)
    assert got.isfinite().all()
