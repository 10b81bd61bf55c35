"""Sampling with rectified flow: steps from noise to video under classifier-free guidance.

Times run from 1000, noise, to 0, the clean video.

Source: Open-Sora v1.2, `opensora/schedulers/rf`; the shift of timesteps by size follows Stable Diffusion 3
(arXiv:2403.03206, section 5.3.2).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from opensora.latent_frames import CHUNK_FRAMES, FRAMES_PER_LATENT, chunked_latent_frames
from opensora.models.text_encoder.encoded_text import EncodedText
from opensora.registry import SCHEDULERS
from opensora.schedulers.rf.frame_mask import FrameMask
from opensora.schedulers.rf.solvers import make_solver
from opensora.schedulers.steps import DenoiseOptions, NonFiniteLatentsError, Sampler, steps_of_run

__all__ = ["RFLOW", "NonFiniteLatentsError", "timestep_transform"]

BASE_RESOLUTION = 512 * 512  # pixels of a frame for which the transform changes nothing


@SCHEDULERS.register_module("rflow")
class RFLOW(Sampler):
    """Rectified-flow sampler.

    Attributes:
        num_sampling_steps: steps, with one call of the model each; the only place that says how many there are.
        cfg_scale: guidance scale; 1 follows the prompt without amplification.
        use_timestep_transform: shift the timesteps by the size of the video.
        use_discrete_timesteps: round the timesteps before the transform.
        base_resolution: pixels of an image whose timesteps the transform keeps, as the model was trained.
        solver: "euler", "adams" or "midpoint", the solver of the differential equation.
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
        make_solver(solver, num_sampling_steps)  # refuses an unknown name now, rather than in a run
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

    def timesteps(self, batch: int, device: torch.device | str, size: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the times of all steps, each (B,) float32, descending from `num_timesteps`.

        Raises:
            ValueError: the timestep transform is on and `size` is incomplete.
        """
        if self.use_timestep_transform and not {"height", "width", "num_frames"} <= size.keys():
            raise ValueError("the timestep transform needs height, width and num_frames in additional_args")
        steps = []
        for i in range(self.num_sampling_steps):
            time = (1 - i / self.num_sampling_steps) * self.num_timesteps
            t = torch.full((batch,), float(round(time) if self.use_discrete_timesteps else time), device=device)
            if self.use_timestep_transform:
                t = timestep_transform(t, size, self.num_timesteps, self.base_resolution)
            steps.append(t)
        return steps

    def times_of_calls(self, height: int, width: int, num_frames: int) -> tuple[float, ...]:
        """Return the times of all model calls in a run of one video, descending."""
        size = {"height": height, "width": width, "num_frames": num_frames}
        tensors = {name: torch.tensor([float(value)]) for name, value in size.items()}
        return tuple(float(t[0]) for t in self.timesteps(1, "cpu", tensors))

    @torch.no_grad()
    def denoise(self, model: nn.Module, text: EncodedText, z: Tensor, options: DenoiseOptions) -> Tensor:
        """Turn noise into latents of videos, as `Sampler.denoise` describes.

        Raises:
            ValueError: the generators are not one for each video, or the timestep transform has no `size`.
            NonFiniteLatentsError: a latent became NaN or infinite; the message names the step.
        """
        guidance_scale = self.cfg_scale if options.guidance_scale is None else options.guidance_scale
        controller, mask, size = options.controller, options.mask, options.size or {}
        arguments = dict(size) if controller is None else {**size, "controller": controller}
        y = torch.cat([text.y, text.null])
        timesteps = self.timesteps(len(z), z.device, size)
        plain_times = torch.stack(timesteps)[:, 0].tolist()  # read once, so that no step has to wait for the device
        frame_mask = None if mask is None else FrameMask(mask, timesteps, self.num_timesteps, options.generator)
        solver = make_solver(self.solver, self.num_sampling_steps)

        def velocity(z: Tensor, t: Tensor) -> Tensor:
            x_mask = None if frame_mask is None else frame_mask.generated.repeat(2, 1)
            out = model(torch.cat([z, z]), torch.cat([t, t]), y, mask=text.mask, x_mask=x_mask, **arguments)
            cond, uncond = out[:, : z.shape[1]].chunk(2)
            return uncond + guidance_scale * (cond - uncond)

        v = None
        with steps_of_run(len(timesteps), len(z), options) as steps:
            for i, t in enumerate(timesteps):
                if controller is not None:
                    frames = None if frame_mask is None or options.compat else frame_mask.generated_frames[i]
                    controller.begin_step(i, plain_times[i], frames, latents=z)
                restart = None
                if frame_mask is not None:
                    z = frame_mask.begin_step(z, t)
                    restart = frame_mask.joining_videos
                following = timesteps[i + 1] if i + 1 < len(timesteps) else torch.zeros_like(t)
                dt = (t - following) / self.num_timesteps
                if v is None or controller is None or controller.held_output() is None:
                    v = velocity(z, t)
                z = solver.step(z, v, dt.view(-1, 1, 1, 1, 1), restart)
                if frame_mask is not None:
                    z = frame_mask.end_step(z)
                steps.end_step(z, plain_times[i])
        return z


def timestep_transform(
    t: Tensor, size: Mapping[str, Tensor], num_timesteps: int = 1000, base_resolution: int = BASE_RESOLUTION
) -> Tensor:
    """Shift timesteps towards the noise for larger and longer videos.

    From 17 frames on, only whole chunks count, as in the training of the published model. For 2 to 16 frames upstream
    would count none and divide by zero; the real number of latent frames is used instead.

    Args:
        t: (B,) float32, 0..num_timesteps.
        size: `height`, `width` and `num_frames` in pixels and frames, (B,) each. The ratio is computed in their dtype,
            as upstream, or in float32 if that is float16.
        base_resolution: pixels of an image whose timesteps stay as they are.
    """
    height, width, num_frames = size["height"], size["width"], size["num_frames"]
    if height.dtype == torch.float16:  # it cannot hold an area of 256 x 256
        height, width, num_frames = height.float(), width.float(), num_frames.float()
    chunks = num_frames // CHUNK_FRAMES * chunked_latent_frames(CHUNK_FRAMES)
    latent_frames = torch.where(num_frames < CHUNK_FRAMES, torch.ceil(num_frames / FRAMES_PER_LATENT), chunks)
    ratio = (height * width / base_resolution).sqrt() * latent_frames.sqrt()
    u = t / num_timesteps
    return ratio * u / (1 + (ratio - 1) * u) * num_timesteps
