"""SeaCache: the latents, with the noise expected at their time filtered out, tell how far the video has moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from adacache.options import BridgeConfig
from adacache.policies.base import PolicyConfig
from adacache.policies.summed import SummedChangePolicy
from adacache.validation import check_count, check_positive


@dataclass(frozen=True)
class SeaCacheConfig(PolicyConfig):
    """The change of the filtered latents since the step before adds up; a step is reused while the sum is small.

    With I a step's latents, filtered over frames, height and width by `adacache.meters.sea_filter`, and I' those of the
    step before, mean|I - I'| / mean|I'| is added up since the last computed step, this step's included. A step is
    reused while the sum is below `threshold` and no more than `max_skips` steps in a row are reused. The first and the
    last step are always computed.

    `bridge` is by default the straight line through the last two computed residuals, the source's order 1; "hold" is
    its order 0, and every other bridge works, too.

    The filter reads sigma = timestep / 1000 as the share of noise in (1 - sigma) * video + sigma * noise: it is made
    for a flow's times. With other schedulers it weighs frequencies differently than the source intends, and times below
    1, as those of EDM's schedulers, leave the latents unfiltered. A run without timesteps is refused. Held frames are
    filtered along with the others, as the model sees them all, but only generated frames are compared.

    Raises:
        ValueError: an option is wrong; the message names it.

    Source: arXiv:2602.18993, SeaCache, and its implementation in diffusers (`SeaCacheConfig`). There each guidance
    branch decides for itself; the latents are the same in all of them, so here one decision serves them all.
    """

    label: ClassVar[str] = "SeaCache"

    threshold: float = 0.25
    max_skips: int = 2
    bridge: BridgeConfig = field(default=BridgeConfig("taylor", order=1), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("threshold", self.threshold)
        check_count("max_skips", self.max_skips)

    def make_policy(self, num_steps: int) -> SeaCachePolicy:
        """A policy for one run; a ValueError unless `num_steps` is a whole number >= 1."""
        self.validate(num_steps)
        return SeaCachePolicy(self.threshold, num_steps, max_skips=self.max_skips)


class SeaCachePolicy(SummedChangePolicy):
    """The policy of a `SeaCacheConfig`."""

    signal: ClassVar[str] = "latents"
    signal_filter: ClassVar[str | None] = "adacache.meters:sea_filter"
    needs_timestep: ClassVar[bool] = True
