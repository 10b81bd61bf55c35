"""Applies AdaCache to a diffusers pipeline, and removes it again."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from torch import nn

from adacache.calibration.calibration import Calibration
from adacache.calibration.target import read_target
from adacache.codebook import PRESETS
from adacache.controller import StepController
from adacache.integrations.diffusers.calibrate import schedules_from
from adacache.integrations.diffusers.hook import check_forward, hook, unhook
from adacache.integrations.diffusers.pipeline import (
    DenoisingLoop,
    cached_forwards_of,
    check_combination,
    check_diffusers,
    check_free,
    check_gradients,
)
from adacache.integrations.diffusers.runs import Runs, RunStart
from adacache.outcome import surprises
from adacache.policies.adacache import AdaCacheConfig
from adacache.policies.base import PolicyConfig
from adacache.policies.registry import config_from_dict, name_of
from adacache.sites import check_blocks_fit
from adacache.trace import Trace
from adacache.validation import check_choice

logger = logging.getLogger(__name__)

METRICS = ("t-attn", "s-attn")  # those that can be measured in diffusers blocks
# Policies that look into a model, or reuse parts of a block.
_INSIDE = {
    "teacache": "follows the modulated input of the first block",
    "fbcache": "follows the residual of the first block",
    "pab": "reuses single branches of blocks",
}


class AdaCacheHandle:
    """AdaCache on a pipeline's transformers, until `remove` or the end of a `with` block.

    Attributes:
        transformers: the hooked transformers; none after `remove`, so that their memory can be freed.
    """

    def __init__(self, transformers: list[nn.Module], runs: Runs, loop: DenoisingLoop) -> None:
        self.transformers = transformers
        self._runs = runs
        self._loop: DenoisingLoop | None = loop
        self._removed = False

    @property
    def traces(self) -> list[Trace]:
        """One trace for each video of the current or last run; with schedule="batch" all are the same.

        Raises:
            RuntimeError: before the first run.
        """
        if not self._removed:
            _warn_if_replaced(self._loop, self.transformers)
        return self._runs.traces

    @property
    def trace(self) -> Trace:
        """The trace of the first video.

        Raises:
            RuntimeError: before the first run.
        """
        return self.traces[0]

    def reset(self) -> None:
        """Discard an interrupted run; the next run would do so by itself."""
        with self._runs.lock:
            self._runs.abort()

    def remove(self) -> None:
        """Restore the transformers; the last run's traces can still be read. A second call does nothing."""
        if self._removed:
            return
        replaced = _warn_if_replaced(self._loop, self.transformers)
        self._removed = True
        with self._runs.lock:
            self._runs.abort()
        kind = type(self.transformers[0]).__name__
        for transformer in self.transformers:
            unhook(transformer)
        self.transformers, self._loop = [], None
        self._runs.close()
        if not self._runs.was_called and not replaced:
            logger.warning(
                "AdaCache saw no call of the %s it was applied to: nothing was cached; does the loop call another one?",
                kind,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


def apply_adacache(
    pipe_or_transformer: Any,
    config: PolicyConfig | Mapping[str, Any] | str | None = None,
    scheduler: Any = None,
    *,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    speedup: float | None = None,
    max_steps_computed: int | None = None,
    min_psnr: float | None = None,
) -> AdaCacheHandle:
    """Cache a diffusers pipeline's transformer, or both of them, from its next call on.

    Pass a `config`, or a `calibration` of the model with one of the three targets.

    Args:
        pipe_or_transformer: a pipeline, or a transformer for a loop of your own, with its `scheduler`.
        config: a policy's config, such as `AdaCacheConfig(...)`, a mapping of its options, or the name of a codebook in
            `adacache.PRESETS`, which is then used on the middle block. Codebooks were tuned on Open-Sora: on another
            model they are a place to start from.
        scheduler: the scheduler of a loop of your own; its timesteps say how many calls a run has.
        calibration: what `calibrate_pipeline` returned, or the file it was saved to.
        speedup: target: how many times as fast denoising should be as with every step computed.
        max_steps_computed: target: the most computed steps per video.
        min_psnr: target: the lowest PSNR in dB against what the calibration aims at, mean over videos.

    Raises:
        ValueError: the model is unknown or cached already, or the config or calibration does not fit it.
        TypeError: neither a config nor a calibration with a target is given, or a transformer comes without its
            scheduler.
        OSError: the calibration's file cannot be read.
        RuntimeError: diffusers is older than `OLDEST_DIFFUSERS`.
    """
    check_diffusers()
    cached = cached_forwards_of(pipe_or_transformer)
    num_blocks = min(forward.num_blocks for forward in cached)
    target = read_target({"speedup": speedup, "max_steps_computed": max_steps_computed, "min_psnr": min_psnr})
    if target is None and calibration is None:
        fixed = _read_config(config, num_blocks)
    elif config is None:
        fixed, schedule_of_run = None, schedules_from(calibration, target, cached)
    else:
        raise ValueError("a config and a calibration or target cannot be combined; give only one of them")
    loop, transformers = DenoisingLoop(pipe_or_transformer, scheduler), [forward.transformer for forward in cached]
    for transformer in transformers:
        check_free(transformer)

    def make_controller(start: RunStart) -> StepController:
        loop.check()
        for forward in cached:
            check_combination(forward.transformer)
            check_forward(forward.transformer)
            check_gradients(forward.transformer)
            forward.family.check(forward.transformer)
        _warn_if_replaced(loop, transformers)
        config = fixed or schedule_of_run(start)
        config.validate(len(start.timesteps), num_blocks)
        if doubt := config.doubt(len(start.timesteps)):
            logger.warning("%s", doubt)
        return StepController(config)

    runs = Runs(loop, make_controller, _report)
    hook(cached, runs)
    return AdaCacheHandle(transformers, runs, loop)


def _warn_if_replaced(loop: DenoisingLoop, transformers: list[nn.Module]) -> bool:
    """Return whether the pipeline's transformers were replaced, and warn if so: runs of the new ones have no trace."""
    replaced = loop.has_others(transformers)
    if replaced:
        logger.warning(
            "AdaCache: the pipeline's transformer was replaced after apply_adacache; the new one runs without the "
            "cache and appears in no trace. Call remove() of this handle, then apply_adacache again"
        )
    return replaced


def _report(controller: StepController) -> None:
    """Log what a run reused, and warn if it was not what its config asks for."""
    for trace in controller.traces:
        logger.info("AdaCache: %d of %d steps computed", trace.num_computed, trace.num_steps)
    found = (sentence for trace in controller.traces for sentence in surprises(trace, controller.config))
    for sentence in dict.fromkeys(found):  # videos of a batch mostly share them
        logger.warning("AdaCache: %s", sentence)


def _read_config(config: Any, num_blocks: int) -> PolicyConfig:
    """Return a policy's config from any form that `apply_adacache` takes, checked against a model of `num_blocks`.

    Raises:
        TypeError: it is no config.
        ValueError: the preset is unknown, or diffusers models do not offer what the policy needs.
    """
    if isinstance(config, str):
        check_choice("preset", config, PRESETS)
        # As in the official configs: block 13 of 28.
        return AdaCacheConfig(codebook=config, metric_blocks=((num_blocks - 1) // 2,))
    if isinstance(config, Mapping):
        if "file" in config:
            raise ValueError("'file' is for config files; give StaticScheduleConfig.from_file(path)")
        config = config_from_dict(config)
        if config is None:
            raise ValueError("do_cache=False asks for no cache; leave apply_adacache out")
    if not isinstance(config, PolicyConfig):
        raise TypeError(
            f"apply_adacache needs a config such as AdaCacheConfig(), or one of the presets {', '.join(PRESETS)}, got "
            f"{config!r}"
        )
    name = name_of(config)
    if name in _INSIDE:
        raise ValueError(f"policy '{name}' {_INSIDE[name]}, which diffusers models do not expose; choose another one")
    if getattr(config, "metric", None) is not None:
        check_blocks_fit(config.metric_blocks, num_blocks)
        check_choice("metric of a diffusers model", config.metric, METRICS)
    return config
