"""Levenberg-Marquardt on any manifold: damping that adapts, steps that raise the cost rejected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

LEAST_DAMPING = 1e-9
MOST_DAMPING = 1e6  # at which no step of any use is left
ROUNDING = 1e-7  # of a cost, relative: sums over float32 residuals


class Linearised(Protocol):
    """A least-squares problem at one state."""

    @property
    def cost(self) -> float:
        """What is minimised."""
        ...

    def step(self, damping: float) -> Step | None:
        """The damped Gauss-Newton step; None where the system cannot be solved."""
        ...


State = TypeVar("State")
System = TypeVar("System", bound=Linearised)


@dataclass(frozen=True, slots=True)
class Step:
    """A step and what the linearised problem expects of it."""

    twist: Tensor  # [..., D] float64, left perturbations
    decrease: float  # of the cost


@dataclass(frozen=True, slots=True)
class Descent:
    """When a minimisation starts, goes on and ends."""

    iterations: int  # systems built at most, the first not counted
    damping: float  # first, relative to the diagonal
    relative_decrease: float  # of the cost by a step, at which it has converged
    negligible: float  # decrease of the cost that is not worth a step


@dataclass(frozen=True, slots=True)
class Minimum(Generic[State, System]):
    """Where a minimisation ended: never higher than it started."""

    state: State
    system: System  # linearised there
    iterations: int  # systems built after the first
    converged: bool  # False: out of iterations, or no step lowered a cost that should fall


def minimise(
    start: State,
    linearise: Callable[[State], System],
    moved: Callable[[State, Tensor], State],
    descent: Descent,
) -> Minimum[State, System]:
    """Minimise a cost from `start` (Levenberg 1944, Marquardt 1963).

    Args:
        linearise: the problem at a state.
        moved: a state after a twist.
    """
    state, system, damping = start, linearise(start), descent.damping
    for iteration in range(descent.iterations):
        step = system.step(damping)
        if step is not None:
            if step.decrease <= max(ROUNDING * system.cost, descent.negligible):
                return Minimum(state, system, iteration, True)
            candidate = moved(state, step.twist)
            there = linearise(candidate)
            if there.cost < system.cost:
                gain = (system.cost - there.cost) / system.cost
                state, system = candidate, there
                damping = max(damping / 5, LEAST_DAMPING)
                if gain < descent.relative_decrease:
                    return Minimum(state, system, iteration + 1, True)
                continue
        damping = max(10 * damping, LEAST_DAMPING)
        if damping > MOST_DAMPING:
            return Minimum(state, system, iteration + 1, False)
    return Minimum(state, system, descent.iterations, False)
