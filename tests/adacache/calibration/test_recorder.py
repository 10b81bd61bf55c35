import numpy as np
import pytest
import torch
from torch import Tensor

from adacache.calibration.recorder import ResidualRecorder
from adacache.calibration.recording import gram_of_sketches
from adacache.policies.static import StaticScheduleConfig

STEPS, TOKENS, CHANNELS = 4, 3, 5
NUMEL = TOKENS * CHANNELS
EVERY = StaticScheduleConfig(tuple(range(STEPS)))


def draw(rows: int, numel_of: tuple[int, int] = (TOKENS, CHANNELS), seed: int = 0) -> Tensor:
    """Residuals (steps, rows, tokens, channels)."""
    return torch.randn((STEPS, rows, *numel_of), generator=torch.Generator().manual_seed(seed))


def record(recorder: ResidualRecorder, residuals: Tensor, videos: int = 1, contexts: tuple[str, ...] = ("all",)):
    """Run blocks whose residuals are these, the rows shared out among guidance contexts; returns the sketches."""
    with recorder.run(len(residuals), videos):
        for step, residual in enumerate(residuals):
            recorder.begin_step(step)
            for context, part in zip(contexts, residual.chunk(len(contexts)), strict=True):
                hidden_states = torch.full_like(part, step)
                recorder.stack(hidden_states, lambda x, *rows, part=part: x + part, TOKENS, context)
    return recorder.sketches()


@pytest.mark.parametrize("elements", [NUMEL, NUMEL + 1, 2**15])
def test_where_there_is_room_sketches_are_the_residuals_themselves(elements):
    residuals = draw(rows=2)  # one video: a row with the prompt, one without
    sketches = record(ResidualRecorder(EVERY, elements), residuals)
    assert (sketches.shape, sketches.dtype) == ((1, STEPS, 2 * NUMEL), np.float32)
    np.testing.assert_allclose(sketches[0], residuals.flatten(1), atol=1e-6)


def test_a_video_has_its_row_of_every_guidance_branch():
    residuals = draw(rows=6)  # three videos with their prompts, then the three without
    sketches = record(ResidualRecorder(EVERY), residuals, videos=3)
    assert sketches.shape == (3, STEPS, 2 * NUMEL)
    for video in range(3):
        np.testing.assert_allclose(sketches[video], residuals[:, [video, video + 3]].flatten(1), atol=1e-6)


def test_guidance_branches_that_run_one_after_the_other_are_sketched_as_those_that_run_together():
    residuals = draw(rows=4)
    together = record(ResidualRecorder(EVERY), residuals, videos=2)
    apart = record(ResidualRecorder(EVERY), residuals, videos=2, contexts=("prompt", "none"))
    np.testing.assert_array_equal(apart, together)


def test_a_reused_step_is_sketched_with_the_residual_it_got():
    residuals = draw(rows=2)
    sketches = record(ResidualRecorder(StaticScheduleConfig((0, 2))), residuals)
    np.testing.assert_allclose(sketches[0], residuals[[0, 0, 2, 2]].flatten(1), atol=1e-6)


def test_two_recorders_pick_the_same_elements_of_different_runs():
    first, second = draw(rows=2, seed=1), draw(rows=2, seed=2)
    one = record(ResidualRecorder(EVERY, 6), first)
    other = record(ResidualRecorder(EVERY, 6), second)
    both = record(ResidualRecorder(EVERY, 6), first - second)
    np.testing.assert_allclose(one - other, both, atol=1e-5)


def test_the_size_is_bounded_and_inner_products_come_out_nearly_right():
    scale = torch.linspace(0.1, 3, 40_000).reshape(200, 200)  # elements differ: picking one end of them would show
    residuals = (draw(1, (200, 200)).cumsum(0) * scale).double()
    sketches = record(ResidualRecorder(EVERY, 8000), residuals.float())
    assert sketches.shape == (1, STEPS, 8000)
    exact = gram_of_sketches(residuals.flatten(2).transpose(0, 1).numpy())
    assert np.abs(gram_of_sketches(sketches) - exact).max() < 0.05 * exact.max()


def test_a_recorder_serves_a_run_of_another_size():
    recorder = ResidualRecorder(EVERY)
    for shape in ((2, 3), (4, 6), (1, 1)):
        residuals = draw(1, shape)
        np.testing.assert_allclose(record(recorder, residuals)[0], residuals.flatten(1), atol=1e-6)


def test_half_precision_is_widened_before_the_difference_is_taken():
    with ResidualRecorder(StaticScheduleConfig((0,))).run(1) as recorder:
        recorder.begin_step(0)
        # 1 + 2**-7 is bfloat16's next number after 1, so that the difference is exact in float32.
        recorder.stack(torch.ones(1, 2, 1).bfloat16(), lambda x: x + 2**-7, 1)
    assert recorder.sketches().tolist() == [[[2**-7, 2**-7]]]
