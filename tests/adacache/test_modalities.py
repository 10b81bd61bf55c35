"""Picture and sound that are denoised together: each is measured by itself, and both are computed or reused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adacache import AdaCacheConfig, StepController
from adacache.policies.easycache import EasyCacheConfig
from adacache.policies.fixed import FixedIntervalConfig
from adacache.policies.seacache import SeaCacheConfig, SeaCachePolicy
from adacache.sites import Site

STEPS = 8
SITE = Site("temporal", 0, "attn")
MEASURED = AdaCacheConfig(codebook=[(0.1, 3), (10, 1)], metric_blocks=(0,))


def sample(
    controller: StepController, picture: Callable[[int], Tensor], sound: Callable[[int], Tensor], num_samples: int = 1
) -> list[tuple[Tensor, Tensor]]:
    """Outputs of blocks that add ten times their input, of both modalities."""
    outputs = []
    with controller.run(STEPS, num_samples, num_modalities=2):
        for step in range(STEPS):
            controller.begin_step(step, 1000.0 - step)
            states, signals = (picture(step), sound(step)), {"latents": lambda: (picture(step), sound(step))}  # noqa: B023

            def run_blocks(hidden_states: Tensor, rows: Tensor | None = None) -> Tensor:
                return hidden_states + controller.branch(SITE, lambda: 10 * hidden_states)

            results = []
            for number, name in enumerate(("picture", "sound")):
                result = controller.stack(states[number], run_blocks, 1, name, signals, modality=number)
                results.append(controller.output(states[number], result, name, modality=number))
            outputs.append(tuple(results))
    return outputs


def calm(step: int) -> Tensor:
    return torch.ones(1, 4, 2) * (1 + step / 1000)


def moving(step: int) -> Tensor:
    return torch.ones(1, 3, 1) * 2.0**step


@pytest.mark.parametrize("config", [MEASURED, EasyCacheConfig(threshold=0.4, warmup=2)], ids=["adacache", "easycache"])
@pytest.mark.parametrize(("picture", "sound"), [(calm, moving), (moving, calm)], ids=["sound", "picture"])
def test_one_that_moves_is_reason_to_compute(config, picture, sound):
    controller = StepController(config)
    outputs = sample(controller, picture, sound)
    assert controller.trace.computed_steps == list(range(STEPS))
    for step, results in enumerate(outputs):
        for result, states in zip(results, (picture(step), sound(step)), strict=True):
            torch.testing.assert_close(result, 11 * states)


@pytest.mark.parametrize(
    ("config", "computed"), [(MEASURED, [0, 1, 4, 6, 7]), (EasyCacheConfig(threshold=0.4, warmup=2), [0, 1, 7])]
)
def test_a_reused_step_adds_what_is_kept_of_each(config, computed):
    controller = StepController(config)
    outputs = sample(controller, calm, lambda step: 3 * calm(step))
    assert controller.trace.computed_steps == computed
    picture, sound = outputs[3]
    torch.testing.assert_close(picture, calm(3) + 10 * calm(1))
    torch.testing.assert_close(sound, 3 * (calm(3) + 10 * calm(1)))


def test_the_trace_shows_the_one_that_changed_more():
    controller = StepController(MEASURED)
    sample(controller, calm, moving)
    assert (controller.trace.records[1].distance, controller.trace.records[1].rate) == (1, 1)
    sample(controller, moving, calm)
    assert controller.trace.records[1].distance == 1


def test_videos_of_a_batch_have_schedules_of_their_own():
    controller = StepController(MEASURED)

    def one_moves(step: int) -> Tensor:
        return torch.cat([moving(step), torch.ones(1, 3, 1)])

    outputs = sample(controller, lambda _: torch.ones(2, 4, 2), one_moves, num_samples=2)
    assert [trace.num_computed for trace in controller.traces] == [STEPS, 5]
    assert torch.equal(outputs[2][1], 11 * one_moves(2))


def test_what_a_policy_added_up_starts_anew_where_the_other_one_asks(monkeypatch):
    """Of latents that change by 0.1 a step and a threshold of 0.25, every third step is computed."""
    monkeypatch.setattr(SeaCachePolicy, "signal_filter", None)

    def slow(step: int) -> Tensor:
        return torch.ones(1, 3, 1) * 1.1**step

    def jump(step: int) -> Tensor:
        return torch.full((1, 4, 2), 1.0 if step < 2 else 2.0)

    config = SeaCacheConfig(threshold=0.25, max_skips=9)
    alone = StepController(config)
    sample(alone, calm, slow)
    assert alone.trace.computed_steps == [0, 3, 6, 7]
    together = StepController(config)
    sample(together, jump, slow)
    assert together.trace.computed_steps == [0, 2, 5, 7]


def test_frames_cannot_be_held():
    controller = StepController(MEASURED)
    with controller.run(STEPS, num_modalities=2), pytest.raises(ValueError, match="several modalities"):
        controller.begin_step(0, generated_frames=[[True, False]])


def test_a_signal_must_be_of_each():
    controller = StepController(EasyCacheConfig())
    sentence = "'latents' has 1 modalities, but the run has 2"
    with pytest.raises(RuntimeError, match=sentence), controller.run(STEPS, num_modalities=2):
        controller.begin_step(0)
        controller.stack(calm(0), lambda x: 2 * x, 1, signals={"latents": lambda: calm(0)})


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_a_modality_that_the_model_never_reports_is_refused(num_modalities):
    controller = StepController(FixedIntervalConfig(interval=2))
    sentence = f"controller.stack for modality {num_modalities - 1} in step 0"
    with pytest.raises(RuntimeError, match=sentence), controller.run(STEPS, num_modalities=num_modalities):
        for step in range(2):
            controller.begin_step(step)
            for modality in range(num_modalities - 1):
                controller.stack(torch.ones(1, 2, 4), lambda x: x + 1, 1, f"branch {modality}", modality=modality)


def test_a_modality_that_the_run_does_not_have_is_refused():
    controller = StepController(FixedIntervalConfig(interval=2))
    with pytest.raises(ValueError, match="got modality 1, but the run has 1"), controller.run(STEPS):
        controller.begin_step(0)
        controller.stack(torch.ones(1, 2, 4), lambda x: x + 1, 1, modality=1)
