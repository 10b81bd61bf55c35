"""Solvers of the flow's ordinary differential equation dz/ds = v(z, s), one velocity per sampling step.

A better solver is a control for caching: both get more out of the same number of model calls. The second-order solvers
are textbook methods for variable step sizes: Hairer, Norsett and Wanner, "Solving Ordinary Differential Equations I",
sections II.1 (Runge-Kutta) and III.5 (Adams with a variable step size).
"""

from __future__ import annotations

import torch
from torch import Tensor

from opensora.errors import suggest

FEW_STEPS = 15
FINAL_EULER_STEPS = 2


class Solver:
    """A solver for one run; what it remembers of earlier steps ends with the run.

    This is Euler's, of first order: the velocity at the beginning holds for the whole step.
    """

    def __init__(self, num_steps: int) -> None:
        pass

    def step(self, z: Tensor, velocity: Tensor, dt: Tensor, restart: Tensor | None = None) -> Tensor:
        """Return the latents at the end of a step.

        Args:
            z: latents at the beginning of the step.
            velocity: velocity of `z` at that time, shaped like `z`.
            dt: length of the step, as a part of the unit of time, 0 or above; broadcasts to `z`.
            restart: bool, broadcasts to `z`: True where the field or the latents changed abruptly since the step
                before, whose velocity then says nothing about this one. There the step is an Euler step.
        """
        return z + velocity * dt


class Adams(Solver):
    """Second order, two-step Adams-Bashforth: the velocity keeps changing as it did over the step before.

    The first step of a run is an Euler step. In a run of fewer than 15 steps, so are the last two: there the steps are
    long and the velocity turns, most of all under strong guidance, so that extrapolation overshoots. Other second-order
    samplers do the same (`lower_order_final` of DPM-Solver++ in diffusers).
    """

    def __init__(self, num_steps: int) -> None:
        self._before: tuple[Tensor, Tensor] | None = None  # velocity and dt of the step before
        self._second_order_steps = num_steps if num_steps >= FEW_STEPS else num_steps - FINAL_EULER_STEPS
        self._step = 0

    def step(self, z: Tensor, velocity: Tensor, dt: Tensor, restart: Tensor | None = None) -> Tensor:
        before, self._before = self._before, (velocity, dt)
        self._step += 1
        if before is None or self._step > self._second_order_steps:
            return super().step(z, velocity, dt)
        velocity_before, dt_before = before
        return _second_order(z, velocity, dt, velocity_before, dt_before, dt**2 / (2 * dt_before), restart)


class Midpoint(Solver):
    """Second order, two-stage Runge-Kutta on pairs of steps: the second step of a pair is its inner evaluation.

    With steps of the same size this is the midpoint method. The first step of a pair is an Euler step, and so is an
    odd last one.
    """

    def __init__(self, num_steps: int) -> None:
        self._first: tuple[Tensor, Tensor] | None = None  # velocity and dt of the pair's first step, between the two

    def step(self, z: Tensor, velocity: Tensor, dt: Tensor, restart: Tensor | None = None) -> Tensor:
        if self._first is None:
            self._first = velocity, dt
            return super().step(z, velocity, dt)
        (velocity_first, dt_first), self._first = self._first, None
        # The method's result is start + h * (v0 + (v1 - v0) * (h / 2) / h1) for a pair of length h = h1 + dt. As z is
        # start + h1 * v0, that is z + dt * v1 + (v1 - v0) * (h1^2 + dt^2) / (2 * h1): the start need not be kept, and
        # what was done to the latents between the two steps stays.
        weight = (dt_first**2 + dt**2) / (2 * dt_first)
        return _second_order(z, velocity, dt, velocity_first, dt_first, weight, restart)


SOLVERS: dict[str, type[Solver]] = {"euler": Solver, "adams": Adams, "midpoint": Midpoint}


def make_solver(name: str, num_steps: int) -> Solver:
    """Return a solver for one run of `num_steps`.

    Raises:
        ValueError: there is no solver of this name.
    """
    if name not in SOLVERS:
        raise ValueError(f"unknown solver {name!r}; {suggest(name, SOLVERS)}")
    return SOLVERS[name](num_steps)


def _second_order(
    z: Tensor,
    velocity: Tensor,
    dt: Tensor,
    velocity_before: Tensor,
    dt_before: Tensor,
    weight: Tensor,
    restart: Tensor | None,
) -> Tensor:
    """Take an Euler step and add `weight` times the change of the velocity, where that is known."""
    euler = z + velocity * dt
    known = dt_before > 0  # rounded times repeat if there are very many steps
    if restart is not None:
        known = known & ~restart
    return torch.where(known, euler + (velocity - velocity_before) * weight, euler)
