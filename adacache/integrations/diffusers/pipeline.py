"""What there is to hook of a diffusers pipeline, and whether it can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from packaging.version import Version
from torch import Tensor, nn

from adacache.integrations.diffusers.forward import CachedForward
from adacache.integrations.diffusers.runs import timesteps_of

OLDEST_DIFFUSERS = "0.35.2"  # the first whose hooks are told of guidance contexts, beside today's transformers


def check_diffusers() -> None:
    """Raises: RuntimeError when the installed diffusers is too old."""
    import diffusers

    if Version(diffusers.__version__) < Version(OLDEST_DIFFUSERS):
        raise RuntimeError(
            f"AdaCache works with diffusers {OLDEST_DIFFUSERS} or newer, this is {diffusers.__version__}; "
            "pip install --upgrade diffusers"
        )


def transformers_of(pipe_or_transformer: Any) -> list[nn.Module]:
    """A transformer itself, or a pipeline's: one, or the two that share its steps.

    Raises: ValueError when it is neither a pipeline with a transformer nor one itself.
    """
    if isinstance(pipe_or_transformer, nn.Module):
        return [pipe_or_transformer]
    found = [getattr(pipe_or_transformer, name, None) for name in ("transformer", "transformer_2")]
    transformers = [module for module in found if isinstance(module, nn.Module)]
    if not transformers:
        raise ValueError(
            f"{type(pipe_or_transformer).__name__} has no transformer: AdaCache works on video diffusion transformers, "
            "see docs/diffusers.md for those it knows"
        )
    return transformers


def cached_forwards_of(pipe_or_transformer: Any) -> list[CachedForward]:
    """One for each transformer.

    Raises: ValueError when there is none, or one is not known.
    """
    return [CachedForward(transformer) for transformer in transformers_of(pipe_or_transformer)]


def schedule_of(pipe_or_transformer: Any, scheduler: Any = None) -> Callable[[], Tensor]:
    """A function that gives the timesteps of the coming run; a scheduler that is given counts more than the pipeline's.

    Raises: TypeError when there is no scheduler.
    """
    if scheduler is not None:
        return lambda: timesteps_of(scheduler)
    if isinstance(pipe_or_transformer, nn.Module):
        raise TypeError(
            "a transformer alone does not know how many steps a run has; give apply_adacache the pipeline, or the "
            "scheduler of your loop: apply_adacache(transformer, config, scheduler=scheduler)"
        )
    return lambda: timesteps_of(pipe_or_transformer.scheduler)  # asked for anew, it may be replaced


def check_free(transformer: nn.Module) -> None:
    """Raises: ValueError when AdaCache or another cache hooks it, or offloading would throw AdaCache's hook away."""
    from adacache.integrations.diffusers.hook import check_no_other_cache, is_installed

    if is_installed(transformer):
        raise ValueError(
            f"AdaCache is applied to this {type(transformer).__name__} already; call remove() of its handle first"
        )
    if hasattr(transformer, "_hf_hook"):
        raise ValueError(
            "offloading was enabled before AdaCache, and would drop it after the first video; call apply_adacache "
            "first and pipe.enable_model_cpu_offload() after it"
        )
    check_no_other_cache(transformer)
