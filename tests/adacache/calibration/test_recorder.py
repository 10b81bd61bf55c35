"""What a calibration measures, on models whose numbers can be worked out."""

import numpy as np
import pytest
import torch

from adacache import StepController
from adacache.calibration.recorder import PolicyCalibration, SignalRecorder, fit_policies
from adacache.policies.static import StaticScheduleConfig


def computing_every_step(num_steps: int, recorder: SignalRecorder) -> StepController:
    return StepController(StaticScheduleConfig(tuple(range(num_steps))), observers=[recorder])


def record_signals(inputs: list[torch.Tensor], num_samples: int, blocks) -> SignalRecorder:
    """Run a model whose modulated input is its input and whose output is twice the stack's."""
    recorder = SignalRecorder()
    controller = computing_every_step(len(inputs), recorder)
    with controller.run(len(inputs), num_samples):
        for step, x in enumerate(inputs):
            controller.begin_step(step, 1000.0)
            h = controller.stack(x, blocks, 1, signals={"modulated_input": lambda x=x: x})
            controller.output(x, 2 * h)
    return recorder


def test_changes_and_ratios_are_measured_per_video():
    # Two videos, with and without guidance: rows 0 and 2 belong to the first, 1 and 3 to the second.
    first = torch.tensor([1.0, 2.0, 3.0, 2.0]).reshape(4, 1, 1).expand(4, 2, 1).clone()
    second = torch.tensor([2.0, 2.0, 3.0, 3.0]).reshape(4, 1, 1).expand(4, 2, 1).clone()
    recorder = record_signals([first, second], 2, lambda h: h + h**2)
    # sum|change| / sum|before|: first video (1 + 0) / (1 + 3), second (0 + 1) / (2 + 2)
    assert recorder.input_changes[0] == pytest.approx([0.25, 0.25])
    # outputs 2 (h + h^2): 4, 12, 24, 12 -> 12, 12, 24, 24
    assert recorder.output_changes[0] == pytest.approx([8 / 28, 12 / 24])
    # residual h^2, its norm per token over the one before: 4 and 1; 1 and 9 / 4
    assert recorder.ratios[0] == pytest.approx([2.5, 1.625])


def test_a_recorder_starts_anew_with_every_run_and_keeps_no_tensors():
    recorder = SignalRecorder()
    controller = computing_every_step(2, recorder)
    for value in (1.0, 5.0):
        with controller.run(2):
            for step in range(2):
                controller.begin_step(step, 0.0)
                x = torch.full((1, 1, 1), value * (step + 1))
                controller.output(
                    x, controller.stack(x, lambda h: 2 * h, 1, signals={"modulated_input": lambda x=x: x})
                )
        assert [change.tolist() for change in recorder.input_changes] == [[1.0]]
    assert recorder._previous == {}


def test_of_guidance_branches_that_run_apart_only_the_first_is_measured():
    recorder = SignalRecorder()
    controller = computing_every_step(3, recorder)
    with controller.run(3):
        for step in range(3):
            controller.begin_step(step, 0.0)
            for context, growth in (("cond", 2.0), ("uncond", 5.0)):
                x = torch.full((1, 1, 1), growth**step)
                signals = {"modulated_input": lambda x=x: x}
                controller.output(x, controller.stack(x, lambda h: 2 * h, 1, context, signals), context)
    # Each step doubles the input, the output and the residual of the first one.
    for changes, expected in ((recorder.input_changes, 1), (recorder.output_changes, 1), (recorder.ratios, 2)):
        assert [change.tolist() for change in changes] == [[expected]] * 2


def test_a_model_without_the_signal_is_refused():
    recorder = SignalRecorder()
    controller = computing_every_step(1, recorder)
    with pytest.raises(RuntimeError, match="offers no signal 'modulated_input'"), controller.run(1):
        controller.begin_step(0)
        controller.stack(torch.ones(1, 1, 1), lambda h: h + 1, 1)


def test_the_polynomial_is_found_again():
    x = np.linspace(0.1, 1, 40).reshape(4, 10)
    fit = fit_policies(x, 3 * x**2 + 0.5, np.tile([[1.0], [0.9], [0.8], [0.7]], (1, 10)))
    assert fit.teacache_coefficients == pytest.approx((0, 0, 3, 0, 0.5), abs=1e-8)
    assert fit.teacache_r2 == pytest.approx(1)
    assert (fit.num_steps, fit.num_videos) == (11, 4)
    assert fit.magcache_ratios == pytest.approx((0.85,) * 10)
    assert fit.magcache_spread == pytest.approx(np.std([1, 0.9, 0.8, 0.7]))
    assert PolicyCalibration.from_dict(fit.to_dict()) == fit


def test_where_nothing_explains_the_output_r2_says_so():
    x = np.random.default_rng(0).uniform(0.1, 1, (20, 50))
    y = np.random.default_rng(1).uniform(0.1, 1, (20, 50))
    assert fit_policies(x, y, x).teacache_r2 < 0.05


def test_too_little_to_fit_is_refused():
    with pytest.raises(ValueError, match="4 measurements do not fit a polynomial of degree 4"):
        fit_policies(np.ones((1, 4)), np.ones((1, 4)), np.ones((1, 4)))
    with pytest.raises(ValueError, match="all 12 measured changes of the input are 0.5"):
        fit_policies(np.full((3, 4), 0.5), np.ones((3, 4)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="some are not finite"):
        fit_policies(np.ones((3, 4)), np.full((3, 4), np.nan), np.ones((3, 4)))
