"""AdaCache: the less a residual changed, the longer it is reused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from adacache.codebook import PRESETS, Codebook
from adacache.policies import official_options
from adacache.policies.base import Measurement, Policy, PolicyConfig, Report
from adacache.sites import Metric, Site, SiteGroup, check_blocks_fit, metric_sites, read_metric_blocks
from adacache.validation import check_count, check_keys, check_positive, check_weight, step_window, whole_numbers


@dataclass(frozen=True)
class MoRegConfig:
    """Motion regularization: videos whose frames differ more are computed more often.

    The motion score is (m / `scale`) ** `power` / `divisor`, where m in [0, 1] is the relative difference of
    frames that lie `strides` apart (mean over the strides). A larger `scale` or `divisor` reuses more;
    `power` sharpens the contrast. `gradient_weight` weighs how fast the score changes between computed steps;
    0 turns that off. Only steps inside `window` are regularized: two ints are 1-based step numbers, two
    floats in [0, 1] are fractions of the number of steps; both ends are included.

    Raises:
        ValueError: a value outside these ranges.

    Source: arXiv:2411.02397, Motion Regularization; defaults from the official code, whose window is (10, 90) of 100
    steps.
    """

    scale: float = 0.385
    power: float = 8.0
    divisor: float = 1.0
    gradient_weight: float = 10.0
    strides: tuple[int, ...] = (1,)
    window: tuple[int, int] | tuple[float, float] = (0.1, 0.9)

    def __post_init__(self) -> None:
        for name in ("scale", "power", "divisor"):
            check_positive(f"moreg {name}", getattr(self, name))
        check_weight("moreg gradient_weight", self.gradient_weight)
        object.__setattr__(self, "strides", whole_numbers("moreg strides", self.strides, minimum=1))
        object.__setattr__(self, "window", step_window("moreg window", self.window))

    @classmethod
    def from_value(cls, value: Any) -> MoRegConfig | None:
        """Read what a config may hold: the options as a mapping, True for the defaults, False or None.

        Raises:
            ValueError: anything else, also an unknown option.
        """
        if value is None or value is False:
            return None
        if value is True:
            return cls()
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"moreg must be None, True, False or a mapping of its options, got {value!r}")
        check_keys("moreg option", value, [field.name for field in fields(cls)])
        return cls(**value)

    def resolve_window(self, num_steps: int) -> tuple[int, int]:
        """The first and the last regularized step of a run, 1-based and both included.

        Fractions always fit: they are rounded and hold at least one step.

        Raises:
            ValueError: a window of step numbers does not lie within 1..num_steps.
        """
        first, last = self.window
        if isinstance(first, float):
            first = max(1, round(first * num_steps))
            return first, max(first, round(last * num_steps))
        if last > num_steps:
            raise ValueError(
                f"moreg window ({first}, {last}) reaches beyond the {num_steps} sampling steps; "
                f"give steps within 1..{num_steps}, or fractions of the run such as (0.1, 0.9)"
            )
        return first, last


@dataclass(frozen=True)
class AdaCacheConfig(PolicyConfig):
    """What AdaCache measures, and how a measurement becomes a schedule.

    `metric` names the residual that is compared between computed steps: temporal attention ("t-attn"),
    spatial attention ("s-attn"), or cross-attention + MLP of both streams ("ca-mlp"). `metric_blocks` are the
    0-based indices of the blocks in which it is measured (their order does not matter, the model's does).
    `codebook` takes every form that `Codebook.from_value` knows, `moreg` every form that
    `MoRegConfig.from_value` knows. The options of `PolicyConfig` are explained there.

    Raises:
        ValueError: an option is wrong; the message names it.

    Source: arXiv:2411.02397, Adaptive Caching and Motion Regularization.
    """

    label: ClassVar[str] = "AdaCache"

    codebook: Codebook = PRESETS["steps100"]
    metric: Metric = "t-attn"
    metric_blocks: tuple[int, ...] = (13,)
    moreg: MoRegConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "codebook", Codebook.from_value(self.codebook))
        object.__setattr__(self, "metric_blocks", read_metric_blocks(self.metric, self.metric_blocks))
        object.__setattr__(self, "moreg", MoRegConfig.from_value(self.moreg))

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> AdaCacheConfig | None:
        """Read a config section in the names of this class, or in the flat names of the official code.

        Missing keys take the defaults. The official `do_cache=False` gives None: no caching.

        Raises:
            ValueError: an unknown key, a wrong value, or names of both kinds at once.
        """
        if not isinstance(options, Mapping):
            raise ValueError(f"the AdaCache config must be a mapping of options to values, got {options!r}")
        own = [field.name for field in fields(cls)]
        official = [key for key in options if key in official_options.DISTINCTIVE]
        if not official:
            check_keys(f"{cls.label} option", options, [*own, *official_options.DISTINCTIVE])
            return cls(**options)
        mixed_in = [key for key in options if key in own and key != "codebook"]
        if mixed_in:
            raise ValueError(
                f"the AdaCache config mixes '{mixed_in[0]}' with '{official[0]}' of the official code; "
                f"use only {', '.join(own)}, or only {', '.join(official_options.DEFAULTS)}"
            )
        translated = official_options.translate(options)
        return cls(**translated) if translated else None

    def validate(self, num_steps: int, num_blocks: int | None = None) -> None:
        """Check the config against the run it is meant for, before anything heavy is loaded.

        `num_blocks` is the number of blocks per stream (the model's depth), None while it is not known.

        Raises:
            ValueError: a metric block lies outside of the model, or the MoReg window outside of the run.
        """
        check_count("num_steps", num_steps)
        check_blocks_fit(self.metric_blocks, num_blocks)
        if self.moreg:
            self.moreg.resolve_window(num_steps)

    def doubt(self, num_steps: int) -> str | None:
        """Return a warning if the codebook was tuned for another number of steps."""
        if self.codebook.num_sampling_steps in (None, num_steps):
            return None
        return (
            f"The codebook was tuned for {self.codebook.num_sampling_steps} sampling steps, but this run has "
            f"{num_steps}: residuals change by a different amount per step, so expect a speed and fidelity other than "
            "the published ones."
        )

    def make_policy(self, num_steps: int) -> AdaCachePolicy:
        """A policy for one run of `num_steps`; a ValueError if the MoReg window does not fit it."""
        return AdaCachePolicy(self.codebook, metric_sites(self.metric, self.metric_blocks), num_steps, self.moreg)


class AdaCachePolicy(Policy):
    """The schedule of one run of `num_steps` sampling steps.

    A step is computed when it lies exactly `rate` steps after the last computed one. The first and the last two are
    always computed; so is the second, as nothing can be compared before it. The rates found at the last two have
    nothing left to decide. If a step is computed for another reason, such as frames that joined, its distance is
    divided by the steps since the last computed one; if there was nothing to compare, the next step is computed.

    Raises:
        ValueError: the MoReg window does not fit `num_steps`.

    Source: arXiv:2411.02397, Adaptive Caching and Motion Regularization, and the official code for what the paper
    leaves open: which steps are forced, and that distances are divided by the rate in force even where a forced step
    cut the interval short.
    """

    def __init__(
        self,
        codebook: Codebook,
        observed_sites: tuple[SiteGroup, ...],
        num_steps: int,
        moreg: MoRegConfig | None = None,
    ) -> None:
        check_count("num_steps", num_steps)
        self.observed_sites = observed_sites
        self.rate = 1
        self.reports: list[Report] = []  # of the last computed step, one for each measurement
        self._codebook = codebook
        self._moreg = moreg
        self._forced = {0, num_steps - 2, num_steps - 1}
        self._last_computed = -1
        self._motion_scores: dict[Site, float] = {}
        if self._moreg:
            first, last = self._moreg.resolve_window(num_steps)
            self._window = range(first - 1, last)  # 0-based from here on

    def should_compute(self, step_index: int) -> bool:
        """Whether the blocks are computed at this 0-based step."""
        return step_index in self._forced or step_index == self._last_computed + self.rate

    def motion_strides(self, step_index: int) -> tuple[int, ...]:
        """The configured strides inside the MoReg window, none outside."""
        return self._moreg.strides if self._moreg and step_index in self._window else ()

    def observe(self, step_index: int, measurements: Sequence[Measurement]) -> Report:
        """Weigh the measurements of a computed step; the last one decides the rate."""
        # As upstream, the rate in force counts even where a forced step cut the interval short.
        rate_in_force = self.rate if step_index in self._forced else step_index - self._last_computed
        self._last_computed = step_index
        self.reports = []
        if not measurements:  # another model or other frames: no motion to compare with, either
            self._motion_scores.clear()
        total = 0.0
        for count, measured in enumerate(measurements, start=1):
            total += measured.distance / rate_in_force
            mean = total / count
            score, gradient = self._motion(measured, rate_in_force)
            value = mean * (score + abs(gradient))
            motion = (score, gradient) if self._moreg else (None, None)
            self.reports.append(Report(mean, value, *motion, rate=self._codebook.rate(value)))
        report = self.reports[-1] if self.reports else Report(rate=1)
        self.rate = report.rate
        return report

    def _scaled(self, motion: float) -> float:
        """(motion / scale)^power / divisor; beyond the range of floats it is infinite."""
        try:
            return (motion / self._moreg.scale) ** self._moreg.power / self._moreg.divisor
        except OverflowError:
            return math.inf

    def _motion(self, measured: Measurement, rate_in_force: int) -> tuple[float, float]:
        """Motion score and motion gradient of one measurement: 1 and 0 leave the distance as it is."""
        if self._moreg is None:
            return 1.0, 0.0
        # Without a motion (outside the window, or a single frame) the score is neutral, but still the previous one of
        # the next gradient: entering and leaving the window are changes of motion, as upstream.
        score = 1.0 if measured.motion is None else self._scaled(measured.motion)
        previous = self._motion_scores.get(measured.site, 1.0)
        self._motion_scores[measured.site] = score
        return score, self._moreg.gradient_weight * (score - previous) / rate_in_force
