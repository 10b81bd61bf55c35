"""Fits and searches on a loop that can be worked out: one number per video, two guidance halves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from adacache import StepController
from adacache.calibration.multistep import MultistepFitter, record_target
from adacache.calibration.plan import Clip, split_clips
from adacache.calibration.search import MultistepSimulation, best_schedules, improve, neighbors
from adacache.policies.multistep import MultistepConfig

CLIPS = tuple(Clip(str(seed), seed) for seed in range(4))
ELEMENTS, SCALE = 64, 3.0


class Loop:
    """Latents follow dz/ds = (1 - SCALE) * u + SCALE * c, with c = A z and u = B z, by Euler steps from 1 to 0.

    `restart` names a step from which another model runs; `calls` counts those of the model.
    """

    def __init__(self, num_steps: int = 8, restart: int | None = None, separate: bool = False):
        self.num_steps, self.restart, self.separate, self.calls = num_steps, restart, separate, 0
        draw = torch.Generator().manual_seed(0)
        self.c, self.u = (torch.randn(ELEMENTS, ELEMENTS, generator=draw) * 0.1 for _ in range(2))

    @contextmanager
    def refined(self, factor: int):
        before, self.num_steps = self.num_steps, self.num_steps * factor
        yield
        self.num_steps = before

    def latents(self, clips: Sequence[Clip], controller: StepController | None) -> Tensor:
        def model(z: Tensor, matrices: Sequence[Tensor], context: str) -> Tensor:
            def blocks(hidden_states, rows=None):
                self.calls += 1
                return hidden_states + 1

            rows = torch.cat([z] * len(matrices))
            controller.stack(rows.flatten(1, -2), blocks, 1, context)
            output = torch.cat([torch.einsum("ij,bcj->bci", matrix, z) for matrix in matrices])
            return controller.output(rows, output, context)

        z = torch.stack([torch.randn(1, ELEMENTS, generator=torch.Generator().manual_seed(c.seed)) for c in clips])
        with controller.run(self.num_steps, len(clips)):
            for step in range(self.num_steps):
                controller.begin_step(step, restart=step == self.restart, latents=z)
                if self.separate:
                    c, u = model(z, [self.c], "cond"), model(z, [self.u], "uncond")
                else:
                    c, u = model(z, [self.c, self.u], "default").chunk(2)
                z = z + ((1 - SCALE) * u + SCALE * c) / self.num_steps
        return z


def distance(loop: Loop, fit, wanted: Tensor, clips=CLIPS) -> float:
    config = MultistepConfig(fit.computed_steps, loop.num_steps, coefficients=fit.coefficients)
    return float((loop.latents(clips, StepController(config)) - wanted).norm() / wanted.norm())


def held(steps: Sequence[int], num_steps: int = 8) -> MultistepConfig:
    return MultistepConfig(steps, num_steps, coefficients=[[[1.0], [1.0]]] * len(steps))


@pytest.mark.parametrize("separate", [False, True])
def test_a_fit_comes_far_nearer_than_holding_and_costs_one_call_per_computed_step(separate):
    loop = Loop(separate=separate)
    targets = [record_target(loop, CLIPS[:2]), record_target(loop, CLIPS[2:])]
    assert loop.calls == 2 * 8 * (1 + separate)
    loop.calls = 0
    finished: list[int] = []
    steps = (0, 1, 3, 5, 7)
    fit = MultistepFitter(loop, targets, finished.append).fit(steps)
    assert loop.calls == 2 * 5 * (1 + separate) and sum(finished) == 4 * 5
    assert [len(half) for halves in fit.coefficients for half in halves] == [1, 1, 2, 2, 3, 3, 3, 3, 3, 3]
    # A step by itself needs no correction: its own output is held, up to what makes up for the gaps before.
    assert fit.coefficients[0] == (pytest.approx((1.0,), abs=1e-3), pytest.approx((1.0,), abs=1e-3))
    wanted = torch.cat([target.latents[-1] for target in targets])
    holding = float((loop.latents(CLIPS, StepController(held(steps))) - wanted).norm() / wanted.norm())
    assert distance(loop, fit, wanted) < holding / 10
    assert fit.quality == pytest.approx(-20 * math.log10(distance(loop, fit, wanted)), abs=0.5)
    others = tuple(Clip(str(seed), seed) for seed in range(10, 14))
    exact = record_target(loop, others).latents[-1]
    assert distance(loop, fit, exact, others) < holding / 8


def test_a_fit_to_the_solution_beats_all_steps_of_the_loop():
    loop = Loop()
    target = record_target(loop, CLIPS, refinement=8)
    assert len(target.latents) == 9
    all_computed = record_target(loop, CLIPS).latents[-1]
    wanted = target.latents[-1]
    fit = MultistepFitter(loop, [target]).fit((0, 1, 3, 5, 7))
    assert distance(loop, fit, wanted) < 0.5 * float((all_computed - wanted).norm() / wanted.norm())


def test_latents_that_are_rounded_on_their_way_spoil_no_fit():
    class Rounding(Loop):
        def latents(self, clips, controller):
            begin = controller.begin_step

            def rounded(step, restart, latents):
                begin(step, restart=restart, latents=latents.bfloat16())

            controller.begin_step = rounded
            return super().latents(clips, controller)

    loop = Loop()
    steps = (0, 2, 4, 6)
    exact = MultistepFitter(loop, [record_target(loop, CLIPS)]).fit(steps)
    rounded = Rounding()
    fit = MultistepFitter(rounded, [record_target(rounded, CLIPS)]).fit(steps)
    wanted = record_target(loop, CLIPS).latents[-1]
    assert distance(loop, fit, wanted) < 2 * distance(loop, exact, wanted)


def test_where_another_model_begins_nothing_from_before_is_combined():
    loop = Loop(restart=3)
    target = record_target(loop, CLIPS)
    assert target.restarts == {3}
    fit = MultistepFitter(loop, [target]).fit((0, 2, 3, 5))
    assert [len(halves[0]) for halves in fit.coefficients] == [1, 2, 1, 2]
    simulation = MultistepSimulation([target], 8, early=3)
    assert simulation.quality((0, 2, 5)) == -math.inf
    assert all(3 in steps for steps in best_schedules(simulation, range(3, 8)).values())
    wanted = target.latents[-1]
    trace_of = StepController(MultistepConfig(fit.computed_steps, 8, coefficients=fit.coefficients))
    combined = (loop.latents(CLIPS, trace_of) - wanted).norm()
    holding = (loop.latents(CLIPS, StepController(held((0, 2, 3, 5)))) - wanted).norm()
    assert combined < holding / 3
    assert trace_of.trace.computed_steps == [0, 2, 3, 5]


def test_the_simulation_counts_what_a_fit_of_each_gap_leaves():
    loop = Loop(num_steps=6)
    target = record_target(loop, CLIPS)
    simulation = MultistepSimulation([target], 6, early=4)
    states, outputs = target.sketch[:, :7].astype(float), target.sketch[:, 7:].astype(float)  # (clips, ..., elements)
    shares = 0
    for history, end in (((0,), 2), ((0, 2), 3), ((0, 2, 3), 6)):
        step = history[-1]
        known = [states[:, step], *(outputs[:, 2 * past + half] for past in history for half in range(2))]
        basis, wanted = np.stack(known, axis=-1).reshape(-1, len(known)), states[:, end].reshape(-1)
        left = (wanted - basis @ np.linalg.lstsq(basis, wanted)[0]).reshape(4, -1)
        shares = shares + np.square(left).sum(1) / np.square(states[:, end]).sum(1) * 4 ** (1 - step / 5)
    assert simulation.quality((0, 2, 3)) == pytest.approx(np.mean(-10 * np.log10(shares)), abs=1e-3)
    assert simulation.quality(range(6)) > simulation.quality((0, 1, 2, 4)) > simulation.quality((0, 4))


def test_latents_that_overflow_are_refused():
    loop = Loop()
    target = record_target(loop, CLIPS)
    loop.c = loop.c * math.inf
    with pytest.raises(ValueError, match="not finite; sample with dtype bf16 or fp32"):
        MultistepFitter(loop, [target]).fit((0, 2))


class Jumps:
    """A simulation that misses what is not computed: the sum of the weights of computed steps."""

    def __init__(self, weights: Sequence[float]):
        self.weights, self.num_steps = weights, len(weights)

    def quality(self, steps: Sequence[int]) -> float:
        return sum(self.weights[step] for step in steps)


def test_the_steps_that_matter_are_found():
    found = best_schedules(Jumps([0, 1, 9, 2, 8, 3]), [1, 3, 4])
    assert found == {1: (0,), 3: (0, 2, 4), 4: (0, 2, 4, 5)}
    assert improve(Jumps([0, 1, 9, 2, 8, 3]), (0, 1, 3)) == (0, 2, 4)


def test_neighbors_differ_in_one_step_other_than_the_first():
    assert sorted(neighbors((0, 2), 4)) == [(0, 1), (0, 3)]


def test_clips_to_fit_to_and_to_measure_on_share_no_prompt():
    fit, held_out = split_clips(["a", "b", "c"], 4, 8, seed=5)
    assert {clip.prompt for clip in fit} == {"a"}
    assert {clip.prompt for clip in held_out} == {"b", "c"}
    assert sorted(clip.seed for clip in (*fit, *held_out)) == list(range(5, 17))
