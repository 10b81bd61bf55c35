"""A pipeline of diffusers, or a loop of your own: its transformers, what it says about its calls, what is refused."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers.hooks import HookRegistry
from packaging.version import Version
from torch import Tensor, nn

from adacache.integrations.diffusers.forward import CachedForward

OLDEST_DIFFUSERS = "0.35.2"  # the first that passes guidance contexts to hooks and works with today's transformers
HOOK_NAME = "adacache"
_NAMES = ("transformer", "transformer_2")  # of a pipeline's transformers


def check_diffusers() -> None:
    """Refuse, with a RuntimeError, a diffusers that is too old."""
    if Version(diffusers.__version__) < Version(OLDEST_DIFFUSERS):
        raise RuntimeError(
            f"AdaCache works with diffusers {OLDEST_DIFFUSERS} or newer, this is {diffusers.__version__}; "
            "pip install --upgrade diffusers"
        )


def transformers_of(pipe_or_transformer: Any) -> list[nn.Module]:
    """Return a transformer itself, or those of a pipeline: one, or the two that share its steps.

    Raises:
        ValueError: it is neither a transformer nor a pipeline with one.
    """
    if isinstance(pipe_or_transformer, nn.Module):
        return [pipe_or_transformer]
    found = [getattr(pipe_or_transformer, name, None) for name in _NAMES]
    transformers = list(dict.fromkeys(module for module in found if isinstance(module, nn.Module)))  # one may be both
    if not transformers:
        raise ValueError(
            f"{type(pipe_or_transformer).__name__} has no transformer: AdaCache works on video diffusion transformers, "
            "see docs/diffusers.md for those it knows"
        )
    return transformers


def cached_forwards_of(pipe_or_transformer: Any) -> list[CachedForward]:
    """Return a `CachedForward` for each transformer.

    Raises:
        ValueError: there is no transformer, one is unknown, wrapped or compiled as a whole, or the pipeline is refused.
    """
    cached = []
    for transformer in transformers_of(pipe_or_transformer):
        check_not_wrapped(transformer)
        forward = CachedForward(transformer)
        reason = forward.family.refused_pipelines.get(type(pipe_or_transformer).__name__)
        if reason is not None:
            raise ValueError(f"{type(pipe_or_transformer).__name__} cannot be cached: {reason}")
        cached.append(forward)
    return cached


class DenoisingLoop:
    """The loop that calls the transformers: a pipeline's, or your own around a scheduler.

    Attributes:
        is_pipeline: whether it is a pipeline's.

    Raises:
        TypeError: a transformer comes without a scheduler.
    """

    def __init__(self, pipe_or_transformer: Any, scheduler: Any = None) -> None:
        self.is_pipeline = not isinstance(pipe_or_transformer, nn.Module)
        if scheduler is None and not self.is_pipeline:
            raise TypeError(
                "a transformer alone does not know how many steps a run has; give apply_adacache the pipeline, or the "
                "scheduler of your loop: apply_adacache(transformer, config, scheduler=scheduler)"
            )
        self._owner = pipe_or_transformer
        self._own_scheduler = scheduler

    def has_others(self, transformers: list[nn.Module]) -> bool:
        """Whether the loop calls others than these, compiled as a whole or not, as a pipeline does that got new ones.

        One that has none at present calls no others: it was set aside, as before decoding.
        """
        if not any(getattr(self._owner, name, None) is not None for name in _NAMES) and self.is_pipeline:
            return False
        current = [getattr(module, "_orig_mod", module) for module in transformers_of(self._owner)]
        return not all(any(module is other for other in transformers) for module in current)

    def check(self) -> None:
        """Refuse, with a ValueError, transformers that are compiled as a whole."""
        for transformer in transformers_of(self._owner):
            check_not_wrapped(transformer)

    @property
    def scheduler_name(self) -> str:
        """Class name of the scheduler, for messages."""
        return type(self._scheduler).__name__

    @property
    def guidance_scale(self) -> float | None:
        """Guidance scale of the current run; None if the loop has none or does not expose it."""
        scale = getattr(self._owner, "guidance_scale", None) if self.is_pipeline else None
        return float(scale) if isinstance(scale, int | float) else None

    @property
    def further_guidance(self) -> dict[str, Any] | None:
        """What a pipeline says of its guidance besides, by name: a second scale, guiders with theirs; or None."""
        found = {"guidance_scale_2": getattr(self._owner, "_guidance_scale_2", None)}
        for name in ("guider", "guider_2"):
            guider = getattr(self._owner, name, None)
            if guider is not None:
                found[name] = [type(guider).__name__, getattr(guider, "guidance_scale", None)]
        return {name: value for name, value in found.items() if value is not None} or None

    @property
    def current_time(self) -> float | None:
        """The scheduler's time of the current step; None if the loop does not expose it."""
        time = getattr(self._owner, "_current_timestep", None)
        return None if time is None else float(time)

    def timesteps(self) -> Tensor:
        """Return the times (calls,) that the scheduler was set to step through; the same tensor until it is set anew.

        Raises:
            RuntimeError: the scheduler was not set.
        """
        timesteps = getattr(self._scheduler, "timesteps", None)
        if not isinstance(timesteps, Tensor) or not len(timesteps):
            raise RuntimeError(
                f"{self.scheduler_name} has no timesteps; call its set_timesteps before the transformer, and give "
                "apply_adacache the scheduler that the loop really uses"
            )
        return timesteps

    def first_place(self, places: list[int], num_times: int) -> int | None:
        """Return the place in the schedule where a run begins; `places` are those that have its first call's time.

        A run may begin later than its schedule, as with strength below 1, if the pipeline or the scheduler says so, or
        in a loop of your own. The result is None if a call from outside of the pipeline's loop comes in the middle of a
        schedule.
        """
        told = [getattr(self._scheduler, "begin_index", None), 0]
        if self._is_running and getattr(self._owner, "_num_timesteps", None) is not None:
            told.insert(0, num_times - self._owner._num_timesteps)
        known = next((place for place in told if place in places), None)
        return places[0] if known is None and not self.is_pipeline else known

    def halves_per_call(self, context: str | None, batches_guidance: bool, is_own: bool) -> int | None:
        """Return the number of guidance halves in the batch of one call; None if it is unknown.

        Any context but "cond_uncond" belongs to a single half. Pipelines use "cond_uncond" without guidance, too, so
        only a loop of your own means both halves by it.

        Args:
            is_own: whether it is a call of the pipeline, see `is_at`.
        """
        if context not in (None, "cond_uncond") or hasattr(self._owner, "guider"):
            return 1
        if not is_own:
            return None if context is None or self.is_pipeline else 2
        if context is None and not batches_guidance:
            return 1
        guided = getattr(self._owner, "do_classifier_free_guidance", None)
        if guided is None and hasattr(self._owner, "guidance_scale"):
            guided = self._owner.guidance_scale > 1
        return None if guided is None else 1 + bool(guided)

    @property
    def _scheduler(self) -> Any:
        return self._own_scheduler or self._owner.scheduler  # a pipeline's may have been replaced

    def is_at(self, time: Tensor) -> bool:
        """Whether the pipeline says that it is at this time of its schedule; if not, something else calls.

        Mochi's schedule ascends, and the pipeline tells the time that a descending one would have.
        """
        told = getattr(self._owner, "_current_timestep", None)
        return self._is_running and (told is None or float(told) in (time.item(), (1000 - time).item()))

    @property
    def _is_running(self) -> bool:
        """Whether the pipeline says that it is in its loop; if not, something else calls its transformer."""
        if not hasattr(type(self._owner), "current_timestep"):
            return hasattr(self._owner, "_num_timesteps")
        return getattr(self._owner, "_current_timestep", None) is not None


def check_free(transformer: nn.Module) -> None:
    """Refuse, with a ValueError, a transformer that is hooked already or that `check_combination` refuses."""
    kind = type(transformer).__name__
    registry = getattr(transformer, "_diffusers_hook", None)
    if registry is not None and HOOK_NAME in registry.hooks:
        raise ValueError(f"AdaCache is applied to this {kind} already; call remove() of its handle first")
    check_combination(transformer)


def check_not_wrapped(transformer: nn.Module) -> None:
    """Refuse, with a ValueError, a transformer that is compiled as a whole or wrapped in another module."""
    own = getattr(transformer, "_orig_mod", transformer)
    if own is not transformer or transformer._compiled_call_impl is not None:
        raise compiled_as_a_whole(type(own))
    wrapped = dict(transformer.named_children()).get("module")
    if wrapped is not None:
        raise ValueError(
            f"this {type(wrapped).__name__} is wrapped in {type(transformer).__name__}, which may copy it or split its "
            "batch; give the pipeline the transformer itself, and each device a pipeline of its own"
        )


def compiled_as_a_whole(kind: type[nn.Module]) -> ValueError:
    """Return the refusal of a transformer that is compiled as a whole."""
    return ValueError(
        f"this {kind.__name__} is compiled as a whole, so AdaCache cannot skip its blocks; compile those "
        "instead, with transformer.compile_repeated_blocks()"
    )


def check_gradients(transformer: nn.Module) -> None:
    """Refuse, with a ValueError, blocks that are called again in the backward pass, when their step is over."""
    if torch.is_grad_enabled() and getattr(transformer, "is_gradient_checkpointing", False):
        raise ValueError(
            f"this {type(transformer).__name__} is called with gradients and gradient checkpointing, which runs its "
            "blocks again when the step is over; call transformer.disable_gradient_checkpointing() first"
        )


def check_combination(transformer: nn.Module) -> None:
    """Refuse, with a ValueError, a transformer that was changed in a way that AdaCache does not work with."""
    kind = type(transformer).__name__
    check_not_wrapped(transformer)
    if getattr(transformer, "_parallel_config", None) is not None:
        raise ValueError(
            f"this {kind} is split over processes by enable_parallelism, and AdaCache would see a part of the video "
            "where it needs the whole; use only one of the two"
        )
    devices = {*(getattr(transformer, "hf_device_map", None) or {}).values()} - {"cpu", "disk"}
    if len(devices) > 1:
        raise ValueError(
            f"this {kind} is spread over devices {', '.join(sorted(map(str, devices)))} by its device_map, so what its "
            "blocks add and their input are on different devices; load it on one device, and offload what does not fit"
        )
    config = getattr(transformer, "_cache_config", None)
    if config is not None:
        raise ValueError(
            f"this {kind} is cached by diffusers already ({type(config).__name__}); call transformer.disable_cache() "
            "before apply_adacache"
        )
    if getattr(transformer, "_is_cached", False):
        raise ValueError(f"this {kind} is cached by cache-dit already; call cache_dit.disable_cache(pipe) first")
    for name, module in transformer.named_modules():
        registry: HookRegistry | None = getattr(module, "_diffusers_hook", None)
        for hook_name, hook in registry.hooks.items() if registry is not None else ():
            if hook._is_stateful and hook_name != HOOK_NAME:
                where = f" at {name}" if name else ""
                raise ValueError(
                    f"this {kind} has the cache hook '{hook_name}'{where}; remove it before apply_adacache"
                )
            streamed = getattr(getattr(hook, "group", None), "stream", None) is not None
            if streamed and hook.config.offload_type == "leaf_level":
                raise ValueError(
                    f"group offloading of this {kind} fetches layers ahead in the order of the first step, which "
                    "reused steps do not follow; use offload_type='block_level', or leave out use_stream"
                )
