"""Sampling with models that predict noise (Latte and Open-Sora-Plan), with the schedulers of diffusers.

Source: the loop of diffusers' `LattePipeline`, whose latents it reproduces bit for bit in float32.
"""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from opensora.errors import suggest
from opensora.models.text_encoder.encoded_text import EncodedText, num_tokens
from opensora.registry import SCHEDULERS
from opensora.schedulers.steps import DenoiseOptions, Sampler, steps_of_run

# Registered name -> class of diffusers.
SOLVERS = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
}


class DiffusionSampler(Sampler):
    """Samples with one of diffusers' schedulers.

    Args:
        solver: a key of `SOLVERS`.
        num_sampling_steps: steps of the schedule; some solvers call the model more often (`num_model_calls`).
        cfg_scale: guidance scale; 1 or less follows the prompt without guidance.
        options: options of the scheduler's class, by its own names; None stands for its default.

    Raises:
        ValueError: the solver is unknown, does not have an option, or cannot do this number of steps.
    """

    def __init__(
        self, solver: str, num_sampling_steps: int = 50, cfg_scale: float = 7.5, **options: float | str | bool | None
    ):
        if num_sampling_steps < 1:
            raise ValueError(f"num_sampling_steps is {num_sampling_steps}; sampling needs at least one step")
        if solver not in SOLVERS:
            raise ValueError(f"unknown solver {solver!r}; {suggest(solver, SOLVERS)}")
        self.solver = solver
        self.num_sampling_steps = num_sampling_steps
        self.cfg_scale = cfg_scale
        self._options = {name: value for name, value in options.items() if value is not None}
        known = inspect.signature(self._scheduler_class.__init__).parameters
        for name in self._options:
            if name not in known:
                raise ValueError(f"unknown option {name!r} of '{solver}'; {suggest(name, set(known) - {'self'})}")
        self.timesteps()  # fails now, rather than in a run, if the schedule cannot be made

    @property
    def num_model_calls(self) -> int:
        """Calls of the model in a run; a step cache counts these."""
        return len(self.timesteps())

    def timesteps(self) -> list[float]:
        """Return the times of all model calls of a run, in order; some solvers call twice at the same time."""
        return [float(t) for t in self._make_scheduler("cpu").timesteps.tolist()]

    def times_of_calls(self, height: int, width: int, num_frames: int) -> tuple[float, ...]:
        """Return `timesteps()`, which do not depend on the size of the video."""
        return tuple(self.timesteps())

    @torch.no_grad()
    def denoise(self, model: nn.Module, text: EncodedText, z: Tensor, options: DenoiseOptions) -> Tensor:
        """Turn noise into latents of videos, as `Sampler.denoise` describes.

        Latents are float32 whatever the model's dtype. These models need no size, and these solvers no generator.

        Raises:
            ValueError: a mask was given.
            NonFiniteLatentsError: a latent became NaN or infinite; the message names the step.
        """
        if options.mask is not None:
            raise ValueError("this model samples whole videos only; leave references and mask strategies out")
        scale = self.cfg_scale if options.guidance_scale is None else options.guidance_scale
        is_guided = scale > 1
        y, text_mask = _read_by_model(text, model, is_guided)
        controller = options.controller
        arguments = {} if controller is None else {"controller": controller}
        scheduler = self._make_scheduler(z.device)
        times = [float(t) for t in scheduler.timesteps.tolist()]
        latents = z.float() * scheduler.init_noise_sigma

        def predict_noise(latents: Tensor, t: Tensor) -> Tensor:
            batch = torch.cat([latents, latents]) if is_guided else latents
            output = model(batch.to(model.dtype), t.to(z.device).expand(len(batch)), y, mask=text_mask, **arguments)
            output = output.float()
            if is_guided:
                negative, positive = output.chunk(2)
                output = negative + scale * (positive - negative)
            # Further channels are a variance that these solvers do not use.
            return output[:, : latents.shape[1]]

        noise = None
        with steps_of_run(len(times), len(z), options) as steps:
            for i, t in enumerate(scheduler.timesteps):
                if controller is not None:
                    controller.begin_step(i, times[i], latents=latents)
                if noise is None or controller is None or controller.held_output() is None:
                    noise = predict_noise(scheduler.scale_model_input(latents, t), t)
                latents = scheduler.step(noise, t, latents, return_dict=False)[0]
                steps.end_step(latents, times[i])
        return latents

    @property
    def _scheduler_class(self) -> type:
        return getattr(diffusers, SOLVERS[self.solver])

    def _make_scheduler(self, device: torch.device | str) -> Any:
        """Return a scheduler for one run; it keeps what its solver remembers of earlier steps.

        Raises:
            ValueError: the solver cannot do this number of steps.
        """
        scheduler = self._scheduler_class(**self._options)
        try:
            scheduler.set_timesteps(self.num_sampling_steps, device=device)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{self.solver} cannot sample in {self.num_sampling_steps} steps: {error}") from error
        return scheduler


def _read_by_model(text: EncodedText, model: nn.Module, is_guided: bool) -> tuple[Tensor, Tensor | None]:
    """Return the features (B, L, C') that the model reads and, if prompts differ in length, their token mask (B, L).

    Text is cut to the longest prompt of the batch, and the negative prompt of each video to the length of its prompt,
    as `LattePipeline` does for a single prompt. Shorter prompts of a batch are masked, so that a video does not depend
    on the others; `LattePipeline` lets them attend to zeros instead. With guidance, the negative half comes first.
    """
    lengths = [num_tokens(mask) for mask in text.mask]
    longest = max(lengths)
    y = text.y[:, 0, :longest]
    if is_guided:
        negative = text.null[:, 0, :longest].to(y)
        y, lengths = torch.cat([negative, y]), lengths * 2
    mask = None
    if min(lengths) < longest:
        mask = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).to(model.device)
    return y.to(model.device, model.dtype), mask


def _register(solver: str) -> None:
    def build(**arguments: Any) -> DiffusionSampler:
        return DiffusionSampler(solver, **arguments)

    SCHEDULERS.register_module(solver, module=build)


for _solver in SOLVERS:
    _register(_solver)
