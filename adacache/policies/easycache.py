"""EasyCache: the input tells how far the output will have moved, at the rate of the last computed steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from adacache.policies.base import OutputChange, OutputPolicy, PolicyConfig, SignalChange
from adacache.policies.summed import SummedChangePolicy
from adacache.validation import check_count, check_positive


@dataclass(frozen=True)
class EasyCacheConfig(PolicyConfig):
    """The model's output is assumed to move in proportion to its input; a step is computed where it would move too far.

    With the input x (noisy latents) and the output v of the last two computed steps, k = mean|v - v'| / mean|x - x'|. A
    step is expected to change the output by k * mean|x - x of the step before| / mean|v|, relative to the last computed
    v. These changes are added up since the last computed step, this step's included; a step is reused while the sum is
    below `threshold`. The first `warmup` steps and the last one are always computed, and so are all steps before k is
    known, which takes two computed steps.

    A reused step skips the model: its output is x plus the last computed v - x. There is no residual to bridge or to
    narrow, so `bridge` has to be "hold" and `cache_dtype` None.

    Raises:
        ValueError: an option is wrong; the message names it.

    Source: arXiv:2507.02860, EasyCache, and the authors' code for HunyuanVideo (`easycache_sample_video.py`), whose
    rules these are, the last step's included. Their code for Wan, which has two guidance branches, measures the
    conditional one and decides for both; here branches that are batched are measured together.
    """

    label: ClassVar[str] = "EasyCache"

    threshold: float = 0.025
    warmup: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("threshold", self.threshold)
        check_count("warmup", self.warmup)
        self.refuse_bridge("reuses the model's output instead of a residual")
        self.refuse_cache_dtype("a few latents")

    def make_policy(self, num_steps: int) -> EasyCachePolicy:
        """A policy for one run; a ValueError unless `num_steps` is a whole number >= 1."""
        self.validate(num_steps)
        return EasyCachePolicy(self.threshold, self.warmup, num_steps)


class EasyCachePolicy(SummedChangePolicy, OutputPolicy):
    """The policy of an `EasyCacheConfig`; its `distance` is the expected change, None while k is not known."""

    signal: ClassVar[str] = "latents"

    def __init__(self, threshold: float, warmup: int, num_steps: int) -> None:
        super().__init__(threshold, num_steps, warmup)
        self._rate: float | None = None  # k
        self._output_magnitude = 0.0

    def distance(self, change: SignalChange) -> float | None:
        """Return k * mean|x - x of the step before| / mean|v|."""
        if self._rate is None:
            return None
        moved = self._rate * change.difference
        return moved / self._output_magnitude if self._output_magnitude else math.inf

    def observe_output(self, step_index: int, change: OutputChange) -> None:
        """Take k and mean|v| from a computed step. An input that stood still says nothing about k."""
        self._rate = change.output_difference / change.input_difference if change.input_difference else None
        self._output_magnitude = change.output_magnitude
