"""Sampling with rectified flow: steps from noise to video under classifier-free guidance.

Source: Open-Sora v1.2, ``opensora/schedulers/rf/__init__.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from opensora.registry import SCHEDULERS
from opensora.schedulers.rf.frame_mask import FrameMask
from opensora.schedulers.rf.solvers import make_solver
from opensora.schedulers.rf.timesteps import BASE_RESOLUTION, timestep_transform
from opensora.schedulers.steps import NonFiniteLatentsError, TextEncoder, steps_of_run

if TYPE_CHECKING:
    from adacache import StepController

__all__ = ["RFLOW", "NonFiniteLatentsError", "TextEncoder"]


@SCHEDULERS.register_module("rflow")
class RFLOW:
    """Rectified-flow sampler.

    Attributes:
        num_sampling_steps: steps, with one call of the model each; the one place that says how many there are.
        cfg_scale: guidance scale; 1 follows the prompt without amplification.
        use_timestep_transform: shift the timesteps by the size of the video.
        use_discrete_timesteps: round the timesteps before the transform.
        base_resolution: pixels of an image that the transform leaves as it is; what the model was trained with.
        solver: "euler", "adams" or "midpoint", see ``opensora.schedulers.rf.solvers``.
    """

    def __init__(
        self,
        num_sampling_steps: int = 10,
        num_timesteps: int = 1000,
        cfg_scale: float = 4.0,
        use_discrete_timesteps: bool = False,
        use_timestep_transform: bool = False,
        base_resolution: int = BASE_RESOLUTION,
        solver: str = "euler",
    ):
        if num_sampling_steps < 1:
            raise ValueError(f"num_sampling_steps is {num_sampling_steps}; sampling needs at least one step")
        make_solver(solver, num_sampling_steps)  # refuses an unknown name before a run does
        self.num_sampling_steps = num_sampling_steps
        self.num_timesteps = num_timesteps
        self.cfg_scale = cfg_scale
        self.use_discrete_timesteps = use_discrete_timesteps
        self.use_timestep_transform = use_timestep_transform
        self.base_resolution = base_resolution
        self.solver = solver

    @property
    def num_model_calls(self) -> int:
        """Calls of the model in a run: one per step, whatever the solver."""
        return self.num_sampling_steps

    def timesteps(self, batch: int, device: torch.device | str, size: Mapping[str, Tensor] | None) -> list[Tensor]:
        """The times of all steps, each (B,) float32, descending from ``num_timesteps``.

        Raises:
            ValueError: the timestep transform is on and ``size`` is not given.
        """
        times = [(1 - i / self.num_sampling_steps) * self.num_timesteps for i in range(self.num_sampling_steps)]
        if self.use_discrete_timesteps:
            times = [round(t) for t in times]
        steps = [torch.full((batch,), float(t), device=device) for t in times]
        if not self.use_timestep_transform:
            return steps
        if not size or not {"height", "width", "num_frames"} <= size.keys():
            raise ValueError("the timestep transform needs height, width and num_frames in additional_args")
        return [timestep_transform(t, size, self.num_timesteps, self.base_resolution) for t in steps]

    @torch.no_grad()
    def sample(
        self,
        model: nn.Module,
        text_encoder: TextEncoder,
        z: Tensor,
        prompts: Sequence[str],
        device: torch.device | str,
        additional_args: Mapping[str, Tensor] | None = None,
        mask: Tensor | None = None,
        guidance_scale: float | None = None,
        progress: bool = True,
        controller: StepController | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        compat: bool = False,
    ) -> Tensor:
        """Turn noise into latents of videos.

        Args:
            z: noise (B, C, T, H, W); where ``mask`` is 0, the latents to keep.
            additional_args: ``height``, ``width``, ``num_frames``, ``fps``, (B,) each, for the model.
            mask: (B, T), 1 = generate, 0 = keep, in between = strength of an edit.
            guidance_scale: replaces ``cfg_scale``.
            controller: step cache; None computes every step.
            generator: source of the noise that edited frames receive: one for each video, so that no video depends on
                the others of its batch, or one for all, as upstream.
            compat: cache as upstream does under a mask: frames that are held count in what is measured, and residuals
                of the time before a frame joined are reused after it.

        Returns:
            Latents like ``z``, float32.

        Raises:
            ValueError: there is not one generator for each video.
            NonFiniteLatentsError: names the step after which a latent was NaN or infinite.
        """
        guidance_scale = self.cfg_scale if guidance_scale is None else guidance_scale
        size = dict(additional_args or {})
        text = text_encoder.encode(prompts)
        # The model reads from it how long the texts are; on the host, it waits for no device to do so.
        text_mask = None if text.get("mask") is None else text["mask"].cpu()
        y = torch.cat([text["y"], text_encoder.null(len(prompts))])
        timesteps = self.timesteps(len(z), device, size)
        plain_times = torch.stack(timesteps)[:, 0].tolist()  # read once: the device is not waited for in every step
        frame_mask = None if mask is None else FrameMask(mask, timesteps, self.num_timesteps, generator)
        solver = make_solver(self.solver, self.num_sampling_steps)

        def velocity(z: Tensor, t: Tensor) -> Tensor:
            x_mask = None if frame_mask is None else frame_mask.generated.repeat(2, 1)
            out = model(
                torch.cat([z, z]),
                torch.cat([t, t]),
                y,
                mask=text_mask,
                x_mask=x_mask,
                **size,
                **({} if controller is None else {"controller": controller}),
            )
            cond, uncond = out[:, : z.shape[1]].chunk(2)
            return uncond + guidance_scale * (cond - uncond)

        with steps_of_run(self.num_model_calls, len(z), controller, progress) as steps:
            for i, t in enumerate(timesteps):
                if controller is not None:
                    told = {} if frame_mask is None or compat else {"generated_frames": frame_mask.generated_frames[i]}
                    controller.begin_step(i, plain_times[i], **told)
                restart = None
                if frame_mask is not None:
                    z = frame_mask.begin_step(z, t)
                    # A frame that joins has no past, and it changes what the model makes of its video's other frames.
                    joining = frame_mask.joining_videos
                    restart = None if joining is None else joining.view(-1, 1, 1, 1, 1)
                following = timesteps[i + 1] if i + 1 < len(timesteps) else torch.zeros_like(t)
                dt = (t - following) / self.num_timesteps
                z = solver.step(z, velocity(z, t), dt.view(-1, 1, 1, 1, 1), restart)
                if frame_mask is not None:
                    z = frame_mask.end_step(z)
                steps.end_step(z, plain_times[i])
        return z
