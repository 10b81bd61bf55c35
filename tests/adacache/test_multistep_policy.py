"""Outputs of the last computed steps, combined, in place of calls of the model."""

from __future__ import annotations

import pytest
import torch

from adacache import StepController
from adacache.memory import estimate_cache_bytes
from adacache.policies.multistep import MultistepConfig

PLAIN = ((1.0,), (1.0,))
STEPS = (0, 1, 4)
COEFFICIENTS = (PLAIN, ((1.5, -0.5), (2.0, 0.0)), ((1.0, 1.0, 1.0), (0.0, 0.0, 2.0)))
CONFIG = MultistepConfig(STEPS, 6, coefficients=COEFFICIENTS)


class Loop:
    """A loop whose model gives 10 * step + row, and counts its calls."""

    def __init__(self, controller: StepController, rows: int = 2, asks: bool = True):
        self.controller, self.rows, self.asks = controller, rows, asks
        self.calls: list[tuple[int, str, int]] = []  # step, context, rows of which the blocks ran

    def call(self, step: int, context: str = "default", offset: float = 0.0) -> list[float]:
        if self.asks and (held := self.controller.held_output(context)) is not None:
            return held.flatten().tolist()

        def blocks(hidden_states, rows=None):
            self.calls.append((step, context, len(hidden_states)))
            return hidden_states + 1

        self.controller.stack(torch.zeros(self.rows, 3, 1), blocks, 3, context)
        output = 10.0 * step + offset + torch.arange(self.rows).float().view(-1, 1, 1, 1, 1)
        return self.controller.output(torch.zeros_like(output), output, context).flatten().tolist()

    def run(self) -> list[list[float]]:
        results = []
        with self.controller.run(6):
            for step in range(6):
                self.controller.begin_step(step)
                results.append(self.call(step))
        return results


@pytest.mark.parametrize("asks", [True, False])
def test_a_gap_has_the_combination_of_its_last_outputs(asks):
    loop = Loop(StepController(CONFIG), asks=asks)
    second = [1.5 * 10 - 0.5 * 0, 2 * 11 - 0 * 1]
    third = [40 + 10 + 0, 2 * 1]
    assert loop.run() == [[0, 1], second, second, second, third, third]
    assert [call[0] for call in loop.calls] == [0, 1, 4]
    trace = loop.controller.trace
    assert trace.computed_steps == [0, 1, 4]
    assert trace.num_reused == 3
    assert trace.metadata["reuses"] == "outputs"
    assert all(record.milliseconds is not None for record in trace.records)


def test_halves_may_come_in_calls_of_their_own():
    controller = StepController(CONFIG)
    loop = Loop(controller, rows=1)
    results = []
    with controller.run(6):
        for step in range(6):
            controller.begin_step(step)
            results.append(loop.call(step, "cond") + loop.call(step, "uncond", offset=1))
    assert results == Loop(StepController(CONFIG)).run()


def test_every_video_has_its_own_and_a_join_holds_the_newest_output():
    def frames(step):
        return [[True, True], [True, step >= 2]]  # the second frame of the second video joins at step 2

    loop = Loop(StepController(CONFIG), rows=4)
    alone = Loop(StepController(CONFIG)).run()

    def call(step):
        controller = loop.controller
        controller.begin_step(step, generated_frames=frames(step))
        if (held := controller.held_output()) is not None:
            return held[:, 0, 0, 0, 0].tolist()
        controller.stack(torch.zeros(4, 2, 1), lambda h, rows=None: h + 1, 1)
        output = 10.0 * step + torch.tensor([0.0, 0, 1, 1]).view(-1, 1, 1, 1, 1).repeat(1, 1, 2, 1, 1)
        return controller.output(torch.zeros_like(output), output)[:, 0, 0, 0, 0].tolist()

    with loop.controller.run(6, 2):
        results = [call(step) for step in range(6)]
    assert [[row[0], row[2]] for row in results] == alone
    # Joined at 2, which is not listed: its output is held until 4, and there by itself, as what it needs is gone.
    assert [[row[1], row[3]] for row in results] == [*alone[:2], [20, 21], [20, 21], [40, 41], [40, 41]]
    assert [trace.computed_steps for trace in loop.controller.traces] == [[0, 1, 4], [0, 1, 2, 4]]


def test_outputs_keep_their_dtype_and_are_combined_in_float32():
    controller = StepController(MultistepConfig((0, 1), 3, coefficients=(((1.0,),), ((1.0, -1.0),))))
    outputs = [torch.full((1, 1, 1, 1, 1), value, dtype=torch.bfloat16) for value in (256.0, 258.0)]
    with controller.run(3):
        for step, output in enumerate(outputs):
            controller.begin_step(step)
            controller.stack(torch.zeros(1, 1, 1), lambda h: h + 1, 1)
            given = controller.output(torch.zeros_like(output), output)
        controller.begin_step(2)
        held = controller.held_output()
    assert given.dtype == held.dtype == torch.bfloat16
    assert given.item() == held.item() == 2


def test_the_memory_is_what_was_promised_and_is_given_back():
    controller = StepController(CONFIG)
    promised = estimate_cache_bytes(CONFIG, 6, 3, "fp32", num_latents=2).total
    most = 0
    loop = Loop(controller)
    with controller.run(6):
        for step in range(6):
            controller.begin_step(step)
            loop.call(step)
            most = max(most, controller.nbytes)
    assert most == promised / 2  # which counts twice the channels, as with a predicted variance
    assert controller.nbytes == 0


def test_what_loops_do_to_an_output_does_not_change_what_is_kept():
    controller = StepController(CONFIG)
    with controller.run(6):
        results = []
        for step in range(6):
            controller.begin_step(step)
            output = controller.held_output()
            if output is None:
                controller.stack(torch.zeros(2, 3, 1), lambda h: h + 1, 3)
                output = controller.output(torch.zeros(2, 1, 1, 1, 1), torch.full((2, 1, 1, 1, 1), 10.0 * step))
            results.append(output[0].item())
            output.mul_(0)
    assert results == [0, 15, 15, 15, 50, 50]


@pytest.mark.parametrize("rows", [1, 3])
def test_another_guidance_is_refused(rows):
    with pytest.raises(ValueError, match=rf"for 2 guidance half\(s\), but this run has {rows} for each video"):
        Loop(StepController(CONFIG), rows=rows).run()


def test_a_step_is_over_once_its_output_was_given():
    controller = StepController(CONFIG)
    loop = Loop(controller)
    with controller.run(6):
        with pytest.raises(RuntimeError, match="held_output came before controller.begin_step"):
            controller.held_output()
        for step in range(3):
            controller.begin_step(step)
            loop.call(step)
        with pytest.raises(RuntimeError, match="held_output was called twice in step 2"):
            controller.held_output()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"computed_steps": (1, 2, 4)}, "must ascend from 0"),
        ({"coefficients": COEFFICIENTS[:2]}, "a list for each of the 3 computed steps, got 2"),
        ({"coefficients": (PLAIN, PLAIN, ((1.0,),))}, "step 2 must list as many guidance halves"),
        ({"coefficients": (((1.0, 0.5), (1.0,)), PLAIN, PLAIN)}, "step 0 must be 1 to 1 finite numbers"),
        ({"coefficients": (PLAIN, PLAIN, ((float("nan"),), (1.0,)))}, "step 2 must be 1 to 3 finite numbers"),
        ({"num_sampling_steps": None}, "give num_sampling_steps"),
        ({"schedule": "batch"}, "leave schedule='batch' out"),
        ({"cache_dtype": "bf16"}, "keeps no residuals, only a few outputs as they are; leave cache_dtype out"),
        ({"bridge": "fitted"}, "bridge 'fitted' cannot be used with multistep, which combines outputs"),
    ],
)
def test_bad_options_are_refused(options, message):
    given = {"computed_steps": STEPS, "coefficients": COEFFICIENTS, "num_sampling_steps": 6, **options}
    with pytest.raises(ValueError, match=message):
        MultistepConfig(**given)


def test_it_holds_for_its_number_of_steps_only():
    with pytest.raises(ValueError, match="made for 6 sampling steps, but the run has 7"):
        CONFIG.validate(7)
