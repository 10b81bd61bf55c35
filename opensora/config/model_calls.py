"""How often a run calls the model: what a step cache counts as its steps.

Source: diffusers' schedulers, ``len(scheduler.timesteps)``.
"""

from __future__ import annotations

from opensora.config.reading import Source
from opensora.config.sections import DiffusionSchedulerConfig, SchedulerConfig

_PRK_STEPS = 4  # of pndm: the first three of them take four calls each, the fourth is of the linear multistep kind
_TRAIN_STEPS = 1000  # diffusers' default
# Options that only some of diffusers' schedulers have.
_OWNERS = {"clip_sample": ("ddim", "heun"), "set_alpha_to_one": ("ddim", "pndm"), "skip_prk_steps": ("pndm",)}


def num_model_calls(scheduler: SchedulerConfig | DiffusionSchedulerConfig) -> int:
    """Calls of the model in a run with the settings of ``scheduler``.

    Heun's method calls it twice in every step but the last. PNDM begins with three Runge-Kutta steps of four calls;
    without them, it repeats its second one.
    """
    steps = scheduler.num_sampling_steps
    if scheduler.type == "heun":
        return 2 * steps - 1
    if scheduler.type == "pndm":
        if scheduler.skip_prk_steps:
            return steps + 1 if steps > 1 else 1
        return steps + 9
    return steps


def check_diffusion_options(scheduler: SchedulerConfig | DiffusionSchedulerConfig, source: Source) -> None:
    """Refuse numbers of steps and options that the scheduler of that type does not have.

    Raises:
        ConfigError: names the entry and the type.
    """
    if not isinstance(scheduler, DiffusionSchedulerConfig):
        return
    for name, owners in _OWNERS.items():
        if getattr(scheduler, name) is not None and scheduler.type not in owners:
            types = " and ".join(f"'{owner}'" for owner in owners)
            raise source.error(
                (f"scheduler.{name}", "scheduler.type"),
                f"scheduler.{name} is an option of {types}, not of '{scheduler.type}'; leave it out, or set it to None",
            )
    steps, most = scheduler.num_sampling_steps, scheduler.num_train_timesteps or _TRAIN_STEPS
    if steps > most:
        raise source.error(
            "scheduler.num_sampling_steps",
            f"scheduler.num_sampling_steps is {steps}, but the model was trained on {most} timesteps; set it to that "
            "at most",
        )
    if scheduler.type == "pndm" and not scheduler.skip_prk_steps and steps < _PRK_STEPS:
        raise source.error(
            ("scheduler.num_sampling_steps", "scheduler.type"),
            f"scheduler.num_sampling_steps must be at least {_PRK_STEPS} with 'pndm', got {steps}; or set "
            "scheduler.skip_prk_steps=True",
        )
