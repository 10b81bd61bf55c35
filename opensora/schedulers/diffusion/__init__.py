"""Sampling with models that predict noise: Latte and Open-Sora-Plan, around the schedulers of diffusers.

Source: the loop of diffusers' ``LattePipeline``, to which it is equal bit for bit in float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from opensora.errors import suggest
from opensora.registry import SCHEDULERS
from opensora.schedulers.diffusion.guidance import GuidedModel
from opensora.schedulers.steps import TextEncoder, steps_of_run

if TYPE_CHECKING:
    from adacache import StepController

# Registered name -> class of diffusers.
SOLVERS = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
}


class DiffusionSampler:
    """Samples with one of diffusers' schedulers.

    Args:
        solver: a key of ``SOLVERS``.
        num_sampling_steps: of the schedule; some solvers call the model more often, see ``num_model_calls``.
        cfg_scale: guidance scale; 1 or less follows the prompt without guidance.
        options: of the scheduler's class, by its own names; None stands for its default.

    Raises:
        ValueError: an unknown solver, an option that it does not have, or a number of steps that it cannot do.
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
        self.timesteps()  # refuses what cannot be done before a run does

    @property
    def num_model_calls(self) -> int:
        """Calls of the model in a run; a step cache counts these."""
        return len(self.timesteps())

    def timesteps(self) -> list[float]:
        """The times of all calls of a run, in their order; some solvers come to a time twice."""
        return [float(t) for t in self._make_scheduler("cpu").timesteps.tolist()]

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
        """Turn noise into latents of videos; the arguments are those of ``RFLOW.sample``.

        Args:
            z: standard normal noise (B, C, T, H, W). It is held in float32 whatever the model's dtype.
            additional_args, generator, compat: these models and solvers have no use for them.
            mask: must be None.
            controller: step cache, whose steps are the calls of the model.

        Returns:
            Latents like ``z``, float32.

        Raises:
            ValueError: a mask was given.
            NonFiniteLatentsError: names the step after which a latent was NaN or infinite.
        """
        if mask is not None:
            raise ValueError("this model samples whole videos only; leave references and mask strategies out")
        scale = self.cfg_scale if guidance_scale is None else guidance_scale
        predict_noise = GuidedModel(model, text_encoder, prompts, scale, controller)
        scheduler = self._make_scheduler(device)
        times = [float(t) for t in scheduler.timesteps.tolist()]
        latents = z.float() * scheduler.init_noise_sigma
        with steps_of_run(len(times), len(z), controller, progress) as steps:
            for i, t in enumerate(scheduler.timesteps):
                if controller is not None:
                    controller.begin_step(i, times[i])
                noise = predict_noise(scheduler.scale_model_input(latents, t), t)
                latents = scheduler.step(noise, t, latents, return_dict=False)[0]
                steps.end_step(latents, times[i])
        return latents

    @property
    def _scheduler_class(self) -> type:
        import diffusers

        return getattr(diffusers, SOLVERS[self.solver])

    def _make_scheduler(self, device: torch.device | str) -> Any:
        """A scheduler for one run; it keeps what its solver remembers of earlier steps."""
        scheduler = self._scheduler_class(**self._options)
        try:
            scheduler.set_timesteps(self.num_sampling_steps, device=device)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{self.solver} cannot sample in {self.num_sampling_steps} steps: {error}") from error
        return scheduler


def _register(solver: str) -> None:
    def build(**arguments: Any) -> DiffusionSampler:
        return DiffusionSampler(solver, **arguments)

    SCHEDULERS.register_module(solver, module=build)


for _solver in SOLVERS:
    _register(_solver)
