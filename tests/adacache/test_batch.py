"""Several videos in one run: who decides, which rows are computed, and what each trace says."""

import gc
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from adacache import AdaCacheConfig, Codebook, Site, StepController

SITE = Site("temporal", 0, "attn")
# Below a change of 0.05 per step a residual serves 4 steps, above it one.
ADAPTIVE = Codebook((0.05,), (4, 1))
STEPS = 12


class RecordingModel:
    """Doubles its input and notes which rows it was asked for."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def __call__(self, hidden_states: Tensor, controller: StepController) -> Tensor:
        def run_blocks(x: Tensor, rows: Tensor | None = None) -> Tensor:
            self.rows.append(list(range(len(hidden_states))) if rows is None else rows.tolist())
            if rows is not None:
                assert torch.equal(x, hidden_states[rows])
            return x + controller.branch(SITE, lambda: x.clone())

        return controller.stack(hidden_states, run_blocks, tokens_per_frame=2)


def growing(rate: float) -> list[float]:
    """A value per step that grows by `rate` each time."""
    return [10 * (1 + rate) ** step for step in range(STEPS)]


def batch(step: int, *videos: list[float]) -> Tensor:
    """Conditional rows, then unconditional ones of three times their value; (2 * videos, 4, 1)."""
    values = torch.tensor([video[step] for video in videos])
    return torch.cat([values, 3 * values])[:, None, None].repeat(1, 4, 1)


def run(controller: StepController, *videos: list[float]) -> tuple[RecordingModel, list[Tensor]]:
    model, outputs = RecordingModel(), []
    with controller.run(STEPS, num_samples=len(videos)):
        for step in range(STEPS):
            controller.begin_step(step)
            outputs.append(model(batch(step, *videos), controller))
    return model, outputs


CALM, BUSY, MIXED = growing(0.01), growing(0.2), growing(0.01)[:6] + growing(0.2)[6:]


@pytest.mark.parametrize("bridge", ["hold", "linear", "fitted"])
@pytest.mark.parametrize("moreg", [None, {"scale": 0.5, "power": 1}])
def test_a_video_in_a_batch_equals_the_same_video_alone(bridge, moreg):
    config = AdaCacheConfig(ADAPTIVE, metric_blocks=(0,), bridge=bridge, moreg=moreg)
    videos = (CALM, BUSY, MIXED)
    together = StepController(config)
    _, outputs = run(together, *videos)
    for index, video in enumerate(videos):
        alone = StepController(config)
        _, expected = run(alone, video)
        assert together.traces[index].computed_steps == alone.trace.computed_steps
        for output, single in zip(outputs, expected, strict=True):
            assert torch.allclose(output[index :: len(videos)], single, rtol=1e-6)


def test_only_the_rows_that_are_due_are_computed():
    controller = StepController(AdaCacheConfig(ADAPTIVE, metric_blocks=(0,)))
    model, _ = run(controller, CALM, BUSY)
    calm, busy = controller.traces
    assert busy.num_computed == STEPS
    assert calm.computed_steps == [0, 1, 5, 9, 10, 11]
    # Rows 0 and 2 are the conditional and the unconditional half of the calm video, 1 and 3 of the busy one.
    assert model.rows == [[0, 1, 2, 3] if step in calm.computed_steps else [1, 3] for step in range(STEPS)]


def test_a_batch_that_decides_together_has_one_schedule():
    controller = StepController(AdaCacheConfig(ADAPTIVE, metric_blocks=(0,), schedule="batch"))
    model, _ = run(controller, CALM, BUSY)
    calm, busy = controller.traces
    assert calm is busy
    assert all(rows == [0, 1, 2, 3] for rows in model.rows)


def test_distances_are_of_both_guidance_halves_of_one_video():
    controller = StepController(AdaCacheConfig(ADAPTIVE, metric_blocks=(0,)))
    run(controller, CALM, BUSY)
    assert [trace.records[1].distance for trace in controller.traces] == pytest.approx([0.01, 0.2], rel=1e-5)


def test_the_time_of_a_step_is_shared_by_those_that_computed_it():
    controller = StepController(AdaCacheConfig(ADAPTIVE, metric_blocks=(0,)))
    run(controller, CALM, BUSY)
    calm, busy = (trace.records for trace in controller.traces)
    assert calm[2].milliseconds == 0 < busy[2].milliseconds
    assert calm[0].milliseconds == busy[0].milliseconds > 0


def test_a_video_that_waits_does_not_keep_the_batch_alive():
    """What is kept for one video is its own, not a view of a residual of the whole batch."""
    controller = StepController(AdaCacheConfig(ADAPTIVE, metric_blocks=(0,)))
    with controller.run(STEPS, num_samples=2):
        for step in range(4):
            controller.begin_step(step)
            RecordingModel()(batch(step, CALM, BUSY), controller)
        gc.collect()
        held = [t for t in gc.get_objects() if type(t) is Tensor and t.dim() == 3 and t.shape[1:] == (4, 1)]
        # Per video: the stack's residual and the measured one, two rows each.
        assert sorted(t.untyped_storage().nbytes() for t in held) == [2 * 4 * 4] * 4
        assert controller.nbytes == 4 * 2 * 4 * 4


def test_rows_that_do_not_belong_to_the_videos_are_refused():
    controller = StepController(AdaCacheConfig(ADAPTIVE, metric_blocks=(0,)))
    with pytest.raises(ValueError, match="4 rows do not belong to 3 samples"), controller.run(STEPS, num_samples=3):
        controller.begin_step(0)
        RecordingModel()(batch(0, CALM, BUSY), controller)


def test_a_fitted_bridge_writes_its_weights_into_the_trace():
    controller = StepController(AdaCacheConfig(Codebook((), (2,)), metric_blocks=(0,), bridge="fitted"))
    run(
        controller, [float(value) for value in range(10, 10 + STEPS)], [float(10 + 5 * (-1) ** i) for i in range(STEPS)]
    )
    steady, turning = controller.traces
    computed = [record.bridge_weight for record in steady.records if record.computed]
    assert computed[:2] == [0, pytest.approx(0.3)]
    assert computed[2:] == pytest.approx([1.0] * len(computed[2:]), abs=1e-5)
    assert [record.bridge_weight for record in steady.records if not record.computed] == [None] * steady.num_reused
    assert all(a < b for a, b in pairwise(turning.computed_steps))
    assert turning.records[-1].bridge_weight == 0
