"""One line that caches a diffusers pipeline, and its opposite."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from packaging.version import Version
from torch import Tensor, nn

from adacache.codebook import PRESETS
from adacache.config import AdaCacheConfig
from adacache.integrations.diffusers.forward import CachedForward
from adacache.integrations.diffusers.runs import Runs, timesteps_of
from adacache.options import ReuseOptions
from adacache.policies.registry import POLICIES, config_from_dict
from adacache.sites import check_blocks_fit
from adacache.trace import Trace
from adacache.validation import check_choice

logger = logging.getLogger(__name__)

OLDEST_DIFFUSERS = "0.35.2"  # the first whose hooks are told of guidance contexts, beside today's transformers
METRICS = ("t-attn", "s-attn")  # what can be measured in a block of diffusers
# Policies that look into a model, or reuse parts of a block.
_INSIDE = {
    "teacache": "goes by the modulated input of the first block",
    "fbcache": "goes by the residual of the first block",
    "pab": "reuses single branches of blocks",
}


class AdaCacheHandle:
    """AdaCache on a pipeline's transformers, until `remove` or the end of a `with` block.

    Attributes:
        config: of the policy.
        transformers: that are hooked.
    """

    def __init__(self, config: ReuseOptions, transformers: list[nn.Module], runs: Runs) -> None:
        self.config = config
        self.transformers = transformers
        self._runs = runs
        self._removed = False

    @property
    def traces(self) -> list[Trace]:
        """One for each video of the current or last run; with schedule="batch" all are the same.

        Raises: RuntimeError before the first run.
        """
        return self._runs.traces

    @property
    def trace(self) -> Trace:
        """That of the first video.

        Raises: RuntimeError before the first run.
        """
        return self.traces[0]

    def reset(self) -> None:
        """Let go of a run that broke off; the next one would do so by itself."""
        self._runs.abort()

    def remove(self) -> None:
        """Leave the transformers as they were; the last run's traces can still be read. Again, it does nothing."""
        from adacache.integrations.diffusers.hook import uninstall

        if self._removed:
            return
        self._removed = True
        self._runs.abort()
        for transformer in self.transformers:
            uninstall(transformer)
        if not self._runs.num_runs:
            logger.warning(
                "AdaCache saw no call of the %s it was applied to: nothing was cached; was the pipeline's transformer "
                "replaced, or compiled, afterwards?",
                type(self.transformers[0]).__name__,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


def apply_adacache(
    pipe_or_transformer: Any,
    config: ReuseOptions | Mapping[str, Any] | str,
    scheduler: Any = None,
) -> AdaCacheHandle:
    """Cache a diffusers pipeline's transformer, or both of them, from its next call on.

    Args:
        pipe_or_transformer: a pipeline, or a transformer for a loop of one's own, with its `scheduler`.
        config: of a policy, such as `AdaCacheConfig(...)`, the schedule of a calibration, a mapping of options, or the
            name of a codebook in `adacache.PRESETS`, which then is measured in the middle block. Codebooks were tuned
            on Open-Sora: on another model they are a place to start from.
        scheduler: of a loop of one's own; its timesteps say how many calls a run has.

    Raises:
        ValueError: the model is not known, is cached already, or the config does not fit it.
        TypeError: `config` is none, or a transformer came without its scheduler.
        RuntimeError: diffusers is older than `OLDEST_DIFFUSERS`.
    """
    _check_diffusers()
    from adacache.integrations.diffusers.hook import check_no_other_cache, install, is_installed

    transformers = _transformers_of(pipe_or_transformer)
    cached = [CachedForward(transformer) for transformer in transformers]
    num_blocks = min(forward.num_blocks for forward in cached)
    config = _read_config(config, num_blocks)
    schedule = _schedule_of(pipe_or_transformer, scheduler)
    for transformer in transformers:
        if is_installed(transformer):
            raise ValueError(
                f"AdaCache is applied to this {type(transformer).__name__} already; call remove() of its handle first"
            )
        _check_offloading(transformer)
        check_no_other_cache(transformer)
    validated: set[int] = set()

    def check(num_steps: int) -> None:
        for transformer in transformers:
            check_no_other_cache(transformer)
        if num_steps not in validated:
            config.validate(num_steps, num_blocks)
            validated.add(num_steps)

    runs = Runs(config, schedule, check)
    for forward in cached:
        install(forward, runs)
    return AdaCacheHandle(config, transformers, runs)


def _check_diffusers() -> None:
    """Raises: RuntimeError when the installed diffusers is too old."""
    import diffusers

    if Version(diffusers.__version__) < Version(OLDEST_DIFFUSERS):
        raise RuntimeError(
            f"AdaCache works with diffusers {OLDEST_DIFFUSERS} or newer, this is {diffusers.__version__}; "
            "pip install --upgrade diffusers"
        )


def _transformers_of(pipe_or_transformer: Any) -> list[nn.Module]:
    """What there is to hook.

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


def _read_config(config: Any, num_blocks: int) -> ReuseOptions:
    """Raises: ValueError when it does not fit a model of `num_blocks`; TypeError when it is no config."""
    if isinstance(config, str):
        check_choice("preset", config, PRESETS)
        # As in the official configs: block 13 of 28.
        return AdaCacheConfig(codebook=config, metric_blocks=((num_blocks - 1) // 2,))
    if isinstance(config, Mapping):
        config = config_from_dict(config)
    if not isinstance(config, ReuseOptions):
        raise TypeError(
            f"apply_adacache needs a config such as AdaCacheConfig(), or one of the presets {', '.join(PRESETS)}, got "
            f"{config!r}"
        )
    name = POLICIES.name_of(config)
    if name in _INSIDE:
        raise ValueError(f"policy '{name}' {_INSIDE[name]}, which models of diffusers do not show; choose another one")
    if getattr(config, "metric", None) is not None:
        check_blocks_fit(config.metric_blocks, num_blocks)
        check_choice("metric of a diffusers model", config.metric, METRICS)
    return config


def _schedule_of(pipe_or_transformer: Any, scheduler: Any) -> Any:
    """A function that gives the timesteps of the coming run.

    Raises: TypeError when there is no scheduler.
    """
    if scheduler is not None:
        return lambda: timesteps_of(scheduler)
    if isinstance(pipe_or_transformer, nn.Module):
        raise TypeError(
            "a transformer alone does not know how many steps a run has; give apply_adacache the pipeline, or the "
            "scheduler of your loop: apply_adacache(transformer, config, scheduler=scheduler)"
        )

    def of_pipeline() -> Tensor:
        return timesteps_of(pipe_or_transformer.scheduler)  # asked for anew, it may be replaced

    return of_pipeline


def _check_offloading(transformer: nn.Module) -> None:
    """Raises: ValueError when accelerate's hook would throw AdaCache's away after the first run."""
    if hasattr(transformer, "_hf_hook"):
        raise ValueError(
            "offloading was enabled before AdaCache, and would drop it after the first video; call apply_adacache "
            "first and pipe.enable_model_cpu_offload() after it"
        )
