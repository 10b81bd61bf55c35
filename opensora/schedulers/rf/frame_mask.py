"""Frames that are given, not generated: which of them a denoising step may change.

Source: Open-Sora v1.2, ``opensora/schedulers/rf/__init__.py`` (RFLOW.sample with a mask).
"""

from __future__ import annotations

import torch
from torch import Tensor

from opensora.schedulers.rf.timesteps import add_noise


class FrameMask:
    """Progress of one masked sampling run.

    A frame of strength m joins the denoising once the time has fallen to m * num_timesteps: it then receives the
    noise of that time. Until then it stays as it was given.

    Args:
        strength: (B, T), 1 = generated from the start, 0 = never changed.
    """

    def __init__(self, strength: Tensor, num_timesteps: int):
        self.num_timesteps = num_timesteps
        self.strength = strength
        self.generated = strength == 1  # (B, T), frames that take part in the current step
        self._given: Tensor | None = None

    def begin_step(self, z: Tensor, t: Tensor, generator: torch.Generator | None) -> Tensor:
        """``z`` (B, C, T, H, W) with noise on the frames that join at time ``t`` (B,)."""
        self._given = z
        # Drawn in every step, whether used or not: the random stream must not depend on the mask.
        noise = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
        noisy = add_noise(z, noise, t, self.num_timesteps)
        generated = self.strength * self.num_timesteps >= t[:, None]
        joining = generated & ~self.generated
        self.generated = generated
        return torch.where(self._per_latent(joining), noisy, z)

    def end_step(self, z: Tensor) -> Tensor:
        """Put frames that did not take part back to what they were before the step."""
        return torch.where(self._per_latent(self.generated), z, self._given)

    @staticmethod
    def _per_latent(frames: Tensor) -> Tensor:
        return frames[:, None, :, None, None]
