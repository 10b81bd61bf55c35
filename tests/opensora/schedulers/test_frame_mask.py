"""Frames that are given: when they join, whose noise they get, and what a cache is told of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from adacache import StepController
from adacache.policies.static import StaticScheduleConfig
from opensora.schedulers.rf import RFLOW
from opensora.schedulers.rf.frame_mask import FrameMask

TIMES = [torch.full((2,), t) for t in (1000.0, 750.0, 500.0, 250.0)]


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


class NoText:
    def encode(self, prompts):
        return {"y": torch.zeros(len(prompts), 1, 2, 3), "mask": torch.ones(len(prompts), 2)}

    def null(self, n):
        return torch.zeros(n, 1, 2, 3)


class Still(torch.nn.Module):
    """A model whose velocity is 0, so that what is left of a run is the noise of its edited frames."""

    def forward(self, x, timestep, y, mask=None, x_mask=None, controller=None, **kwargs):
        if controller is not None:
            tokens = x.flatten(3).permute(0, 2, 3, 1).flatten(1, 2)  # (B, N, C)
            controller.stack(tokens, lambda h, rows=None: 0 * h, x.shape[3] * x.shape[4])
        return torch.zeros_like(x)


def sample(
    mask: list[list[float]],
    generator: torch.Generator | list[torch.Generator] | None,
    steps: int = 4,
    z: Tensor | None = None,
    **options,
) -> Tensor:
    z = torch.zeros(len(mask), 2, len(mask[0]), 2, 2) if z is None else z
    return RFLOW(steps).sample(
        Still(),
        NoText(),
        z,
        [""] * len(z),
        "cpu",
        mask=torch.tensor(mask),
        progress=False,
        generator=generator,
        **options,
    )


def test_who_takes_part_is_known_for_all_steps_beforehand():
    mask = FrameMask(torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.75, 0.2]]), TIMES, 1000)
    first = [[step >= start for start in (0, 2, 9)] for step in range(4)]
    second = [[step >= start for start in (0, 1, 9)] for step in range(4)]
    assert mask.generated_frames == [list(videos) for videos in zip(first, second, strict=True)]


def test_frames_get_the_noise_of_the_time_they_join_at_and_others_stay():
    z = torch.full((1, 2, 3, 2, 2), 4.0)
    out = sample([[1.0, 0.5, 0.0]], generators(7), z=z)
    drawn = generators(7)[0]
    noise = [torch.randn(2, 3, 2, 2, generator=drawn) for _ in range(4)]
    assert torch.equal(out[0, :, [0, 2]], z[0, :, [0, 2]])
    torch.testing.assert_close(out[0, :, 1], 0.5 * z[0, :, 1] + 0.5 * noise[2][:, 1])  # time 500 is step 2


def test_a_video_s_noise_depends_on_its_own_generator_only():
    masks = [[1.0, 0.5], [0.3, 1.0], [1.0, 1.0], [0.5, 0.75]]
    together = sample(masks, generators(1, 2, 3, 4))
    swapped = sample(masks[::-1], generators(4, 3, 2, 1)).flip(0)
    assert torch.equal(together, swapped)
    for index, mask in enumerate(masks):
        assert torch.equal(together[index], sample([mask], generators(index + 1))[0])
    assert together[0].abs().sum() > 0


def test_other_frames_strengths_do_not_move_the_stream():
    assert torch.equal(sample([[0.5, 1.0]], generators(5))[:, :, 0], sample([[0.5, 0.75]], generators(5))[:, :, 0])


def test_noise_is_the_same_for_latents_of_every_dtype():
    start = torch.zeros(1, 2, 2, 2, 2)
    full, half = (sample([[0.5, 1.0]], generators(5), z=start.to(dtype)) for dtype in (torch.float32, torch.bfloat16))
    torch.testing.assert_close(full, half.float(), rtol=0, atol=2e-2)


def test_one_generator_for_all_draws_as_upstream_does():
    z = torch.zeros(2, 2, 2, 2, 2)
    out = sample([[0.5, 1.0], [1.0, 1.0]], torch.Generator().manual_seed(3), z=z)
    one = torch.Generator().manual_seed(3)
    noise = [torch.randn(z.shape, generator=one) for _ in range(4)]
    torch.testing.assert_close(out[0, :, 0], 0.5 * noise[2][0, :, 0])


def test_another_number_of_generators_is_refused():
    with pytest.raises(ValueError, match="got 1 generators for 2 videos; give each video its own"):
        sample([[1.0], [0.5]], generators(1))


def test_a_generated_frame_is_not_held_where_rounding_exceeds_the_first_time():
    size = {"height": torch.tensor([976.0]), "width": torch.tensor([64.0]), "num_frames": torch.tensor([1.0])}
    times = RFLOW(4, use_timestep_transform=True).timesteps(1, "cpu", size)
    assert times[0].item() > 1000
    mask = FrameMask(torch.tensor([[1.0]]), times, 1000)
    assert mask.generated_frames == [[[True]]] * 4
    z = torch.zeros(1, 1, 1, 1, 1)
    assert all(torch.equal(mask.end_step(mask.begin_step(z, t)), z) and mask.joining_videos is None for t in times)


class Unread(TorchDispatchMode):
    """Refuses to bring a number of a tensor to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_local_scalar_dense" in str(func) or "nonzero" in str(func) or "is_nonzero" in str(func):
            raise AssertionError(f"{func} would wait for the device")
        return func(*args, **(kwargs or {}))


def test_steps_read_nothing_from_the_device():
    mask = FrameMask(torch.tensor([[1.0, 0.5], [0.0, 1.0]]), TIMES, 1000, generators(1, 2))
    with Unread():
        z = torch.zeros(2, 1, 2, 1, 1)
        for t in TIMES:
            z = mask.end_step(mask.begin_step(z, t) + 1)
            mask.joining_videos  # noqa: B018
    with pytest.raises(AssertionError, match="would wait"), Unread():
        z.sum().item()


class Listening(StepController):
    """Notes what it is told about frames."""

    def __init__(self) -> None:
        super().__init__(StaticScheduleConfig((0, 3)))
        self.told: list[list[list[bool]] | None] = []

    def begin_step(self, step_index, timestep=None, generated_frames=None, **others) -> None:
        self.told.append(generated_frames)
        super().begin_step(step_index, timestep, generated_frames, **others)


def test_a_cache_is_told_and_computes_the_step_of_a_join():
    controller = Listening()
    sample([[1.0, 0.5], [1.0, 1.0]], generators(1, 2), controller=controller)
    both = [True, True]
    assert controller.told == [[[True, step >= 2], both] for step in range(4)]
    assert [trace.computed_steps for trace in controller.traces] == [[0, 2, 3], [0, 3]]


def test_compat_tells_it_nothing():
    controller = Listening()
    sample([[1.0, 0.5], [1.0, 1.0]], generators(1, 2), controller=controller, compat=True)
    assert controller.told == [None] * 4
    assert [trace.computed_steps for trace in controller.traces] == [[0, 3], [0, 3]]
