"""AdaCache: the less a residual changed, the longer it is reused."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adacache.codebook import Codebook
from adacache.moreg import MoRegConfig
from adacache.policies.base import Measurement, Report
from adacache.sites import Site, SiteGroup
from adacache.validation import check_count


@dataclass(frozen=True)
class Observation:
    """How one measurement was weighed.

    `per_step` is the distance divided by the rate in force, `mean` its mean over this step's measurements so
    far, `value` the mean times (motion_score + |motion_gradient|), and `rate` what the codebook says to that.
    """

    site: Site
    per_step: float
    mean: float
    motion_score: float
    motion_gradient: float
    value: float
    rate: int


class AdaCachePolicy:
    """The schedule of one run of `num_steps` sampling steps.

    A step is computed when it lies exactly `rate` steps behind the last computed one. The first and the last
    two are always computed; so is the second, as nothing can be compared before it. The rates found at the
    last two have nothing left to decide. Where a step is computed for another reason, as frames joined, its distance
    counts by the steps that lie between, and where there was nothing to compare, the next step is computed.

    Raises: ValueError when the MoReg window does not fit `num_steps`.
    Source: arXiv:2411.02397, Adaptive Caching and Motion Regularization, and the official code for what the
    paper leaves open: which steps are forced, and that distances are divided by the rate in force even where
    a forced step cut the interval short.
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
        self.observations: list[Observation] = []  # of the last computed step
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
        # As upstream, the rate in force where a forced step cut the interval short.
        rate_in_force = self.rate if step_index in self._forced else step_index - self._last_computed
        self._last_computed = step_index
        self.observations = []
        total = 0.0
        for count, measured in enumerate(measurements, start=1):
            per_step = measured.distance / rate_in_force
            total += per_step
            mean = total / count
            score, gradient = self._motion(measured, rate_in_force)
            value = mean * (score + abs(gradient))
            self.rate = self._codebook.rate(value)
            self.observations.append(Observation(measured.site, per_step, mean, score, gradient, value, self.rate))
        if not self.observations:
            self.rate = 1
            return Report(rate=self.rate)
        last = self.observations[-1]
        return Report(
            distance=last.mean,
            value=last.value,
            motion_score=last.motion_score if self._moreg else None,
            motion_gradient=last.motion_gradient if self._moreg else None,
            rate=last.rate,
        )

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
        # Without a motion (outside the window, or a single frame) the score is neutral, but it still counts
        # as the previous one of the next gradient: entering and leaving the window are changes of motion, as
        # upstream.
        score = 1.0
        if measured.motion is not None:
            score = self._scaled(measured.motion)
        previous = self._motion_scores.get(measured.site, 1.0)
        self._motion_scores[measured.site] = score
        return score, self._moreg.gradient_weight * (score - previous) / rate_in_force
