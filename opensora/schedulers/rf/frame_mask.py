"""Frames that are given, not generated: which of them a denoising step may change.

Source: Open-Sora v1.2, `opensora/schedulers/rf/__init__.py` (RFLOW.sample with a mask).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class FrameMask:
    """Progress of one masked sampling run.

    A frame of strength m joins the denoising once the time has fallen to m * num_timesteps: it then receives the noise
    of that time. Until then it stays as it was given. Which frames take part in which step is known before the first
    step, and is read from the device only once.

    Args:
        strength: (B, T), 1 = generated from the start, 0 = never changed.
        timesteps: times of all steps, (B,) each.
        generator: source of the noise. One torch.Generator, or None for torch's own, draws for the whole batch as
            upstream does; a sequence holds one for each video, whose noise then depends on nothing else.

    Attributes:
        generated: (B, T) bool, frames that take part in the current step.
        generated_frames: the same for every step, as plain bools, [step][video][frame].

    Raises:
        ValueError: the generators are not one for each video.
    """

    def __init__(
        self,
        strength: Tensor,
        timesteps: Sequence[Tensor],
        num_timesteps: int,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ):
        if isinstance(generator, Sequence) and len(generator) != len(strength):
            raise ValueError(f"got {len(generator)} generators for {len(strength)} videos; give each video its own")
        self._num_timesteps = num_timesteps
        self._generator = generator
        # A frame of strength 1 takes part from the start, even if rounding puts the first time above `num_timesteps`.
        begun = strength == 1
        steps = (strength * num_timesteps >= torch.stack(list(timesteps))[:, :, None]) | begun  # (steps, B, T)
        self._steps = steps
        self._joining = steps & ~torch.cat([begun[None], steps[:-1]])
        self.generated_frames: list[list[list[bool]]] = steps.tolist()
        self._joins: list[list[bool]] = self._joining.any(2).tolist()  # [step][video]
        self.generated = begun
        self._step = -1
        self._given: Tensor | None = None

    def begin_step(self, z: Tensor, t: Tensor) -> Tensor:
        """Begin the next step, at time `t` (B,): return `z` (B, C, T, H, W) with noise on the frames that join."""
        self._step += 1
        self._given = z
        self.generated = self._steps[self._step]
        noise = self._noise(z)
        if noise is None:
            return z
        return torch.where(_per_latent(self._joining[self._step]), add_noise(z, noise, t, self._num_timesteps), z)

    def end_step(self, z: Tensor) -> Tensor:
        """Return `z` with the frames that did not take part restored to what they were before the step."""
        return torch.where(_per_latent(self.generated), z, self._given)

    @property
    def joining_videos(self) -> Tensor | None:
        """(B, 1, 1, 1, 1) bool, the videos of which a frame joins in this step; None if there are none.

        Such a frame has no past, and it changes what the model predicts for its video's other frames.
        """
        return _per_latent(self._joining[self._step].any(1, keepdim=True)) if any(self._joins[self._step]) else None

    def _noise(self, z: Tensor) -> Tensor | None:
        """Draw noise shaped like `z`; None if no frame needs it.

        It is drawn in every step, used or not: the random stream must not depend on the mask.
        """
        joins = self._joins[self._step]
        if not isinstance(self._generator, Sequence):
            noise = torch.randn(z.shape, generator=self._generator, device=z.device, dtype=z.dtype)
            return noise if any(joins) else None
        # In float32, so that the stream is the same for every dtype of the latents.
        drawn = [torch.randn(z.shape[1:], generator=own, device=own.device) for own in self._generator]
        return torch.stack(drawn).to(z.device, z.dtype, non_blocking=True) if any(joins) else None


def add_noise(clean: Tensor, noise: Tensor, t: Tensor, num_timesteps: int = 1000) -> Tensor:
    """The point at time `t` (B,) on the straight line from `clean` to `noise`, both (B, C, T, H, W)."""
    u = (t / num_timesteps).view(-1, *[1] * (clean.ndim - 1))
    return (1 - u) * clean + u * noise


def _per_latent(frames: Tensor) -> Tensor:
    return frames[:, None, :, None, None]
