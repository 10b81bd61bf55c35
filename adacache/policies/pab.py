"""PAB, Pyramid Attention Broadcast: single branches are reused, cross-attention longest, spatial attention shortest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from adacache.policies.base import BranchPolicy, PolicyConfig
from adacache.sites import Site
from adacache.validation import check_count, is_finite, is_list, whole_numbers


@dataclass(frozen=True)
class PABConfig(PolicyConfig):
    """Nothing is measured: every kind of branch is computed at an interval of its own, the same for all videos.

    Times are the flow's, 1000 for noise down to 0; steps are 0-based.

    Attention: `spatial` and `temporal` are the intervals of self-attention in the two streams, `cross` that of
    cross-attention in both. While the time lies between the two of `window`, both excluded, a branch is computed at the
    multiples of its interval; outside of the window it is computed at every step. An interval of 1 reuses nothing.

    MLPs of the blocks `mlp_blocks` of both streams: for each of the times `mlp_times`, the first step at or below it
    computes them, and the next `mlp_hold` steps add the same again, unless another hold begins there. Empty `mlp_times`
    turn this off.

    At the first step everything is computed, whatever its time. The stack runs at every step, so `bridge` has to be
    "hold".

    Raises:
        ValueError: an option is wrong; the message names it.

    Source: arXiv:2408.12588, PAB, and its code in VideoSys, with the options for Open-Sora as defaults. Two things
    differ. In VideoSys a hold begins only where a listed time *is* the integer timestep of a step. Open-Sora's
    timesteps depend on resolution, length and number of steps, and only at 480p with 51 frames and 30 steps all three
    are hit; other settings hit fewer or none, without a message. "The first step at or below" gives the same steps
    there, and works at all other settings, too; listed times that one step passes together begin one hold. And the
    window is compared with the time itself, not with its integer part.
    """

    label: ClassVar[str] = "PAB"

    spatial: int = 2
    temporal: int = 4
    cross: int = 6
    window: tuple[float, float] = (450.0, 930.0)
    mlp_times: tuple[float, ...] = (864.0, 788.0, 676.0)
    mlp_hold: int = 2
    mlp_blocks: tuple[int, ...] = (0, 1, 2, 3, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("spatial", "temporal", "cross", "mlp_hold"):
            check_count(name, getattr(self, name))
        object.__setattr__(self, "window", _read_window(self.window))
        object.__setattr__(self, "mlp_times", _read_times(self.mlp_times))
        blocks = whole_numbers("mlp_blocks", self.mlp_blocks, minimum=0)
        object.__setattr__(self, "mlp_blocks", tuple(sorted(set(blocks))))
        self.refuse_bridge("adds the last output of a branch again, unchanged")

    def validate(self, num_steps: int, num_blocks: int | None = None) -> None:
        """Refuse, with a ValueError, an invalid number of steps, or a model that lacks one of the `mlp_blocks`."""
        super().validate(num_steps, num_blocks)
        if num_blocks is not None and self.mlp_times and self.mlp_blocks[-1] >= num_blocks:
            raise ValueError(
                f"mlp_blocks {list(self.mlp_blocks)} do not fit a model of {num_blocks} blocks; give indices in "
                f"0..{num_blocks - 1}, or no mlp_times to compute all MLPs"
            )

    def make_policy(self, num_steps: int) -> PABPolicy:
        """A policy for one run; a ValueError unless `num_steps` is a whole number >= 1."""
        self.validate(num_steps)
        return PABPolicy(self)


class PABPolicy(BranchPolicy):
    """The policy of a `PABConfig`.

    A hold is found only when the step comes that begins it: the times of later steps are not known beforehand.
    """

    def __init__(self, config: PABConfig) -> None:
        self._config = config
        self._intervals = {"spatial": config.spatial, "temporal": config.temporal, "cross": config.cross}
        self._hold_begins: dict[float, int] = {}  # listed time -> the step
        self._step = 0
        self._timestep = 0.0

    def begin_step(self, step_index: int, timestep: float) -> None:
        """Note the step, and the holds that begin with it."""
        self._step, self._timestep = step_index, timestep
        for time in self._config.mlp_times:
            if timestep <= time:
                self._hold_begins.setdefault(time, step_index)

    def computes(self, site: Site) -> bool:
        """Whether the branch is computed at this step: neither its interval nor a hold reuses it."""
        if not self.keeps(site):
            return True
        # Step 0, which has nothing to add again, is a multiple of every interval and lies in no hold.
        if site.part == "mlp":
            return not self._is_held()
        low, high = self._config.window
        return not low < self._timestep < high or self._step % self._interval(site) == 0

    def keeps(self, site: Site) -> bool:
        """Whether the branch is ever reused: attention with an interval above 1, and the MLPs that are held."""
        if site.part == "mlp":
            return bool(self._config.mlp_times) and site.block in self._config.mlp_blocks
        return self._interval(site) > 1

    def _interval(self, site: Site) -> int:
        return self._intervals["cross" if site.part == "cross" else site.stream]

    def _is_held(self) -> bool:
        since = [self._step - begin for begin in self._hold_begins.values()]
        return 0 not in since and any(steps <= self._config.mlp_hold for steps in since)


def _read_window(value: Any) -> tuple[float, float]:
    """Two ascending times; a ValueError for anything else."""
    if not is_list(value) or len(value) != 2 or not all(map(is_finite, value)) or not value[0] < value[1]:
        raise ValueError(f"window must be a low and a high time of the flow such as (450, 930), got {value!r}")
    return float(value[0]), float(value[1])


def _read_times(value: Any) -> tuple[float, ...]:
    """The times in the order in which the flow passes them, each once.

    Raises:
        ValueError: it is not a list of numbers, which may be empty.
    """
    if not is_list(value) or not all(map(is_finite, value)):
        raise ValueError(f"mlp_times must be a list of times of the flow such as (864, 788, 676), got {value!r}")
    return tuple(sorted({float(time) for time in value}, reverse=True))
