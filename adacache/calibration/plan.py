"""What is run for a calibration: clips to search on, clips to measure on, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adacache.options import BridgeConfig

DAMPED = BridgeConfig("linear", weight=1.0, max_ratio=0.5)  # the whole slope, up to half the gap before
FEWEST_STEPS = 5  # of a run that leaves something to choose
FEWEST_COMPUTED = 4  # below, the bridge has next to nothing to go by
# Where a run is probed, as fractions of it: errors of the first steps matter most and differ most.
PROBED = (0.03, 0.07, 0.1, 0.13, 0.17, 0.2, 0.27, 0.37, 0.67, 0.97)
MEASURED = (0.2, 0.27, 0.33, 0.4, 0.5, 0.6, 0.7, 0.8)  # fractions of the steps that are computed


@dataclass(frozen=True)
class Clip:
    """A prompt and the seed of its noise."""

    prompt: str
    seed: int


def split_clips(
    prompts: Sequence[str], num_search: int, num_held_out: int, seed: int
) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """Clips to search on and clips to measure on; no prompt is in both.

    With fewer prompts than clips, prompts come again with other seeds: every clip has a seed of its own.

    Raises:
        ValueError: there are fewer than two different prompts.
    """
    different = list(dict.fromkeys(prompts))
    if len(different) < 2:
        raise ValueError(
            "a calibration needs at least two different prompts, one to search schedules on and one to measure them"
        )
    share = round(len(different) * num_search / (num_search + num_held_out))
    border = max(1, min(num_search, len(different) - 1, share))
    search, held_out = different[:border], different[border:]
    clips = [Clip(search[i % len(search)], seed + i) for i in range(num_search)]
    measured = [Clip(held_out[i % len(held_out)], seed + num_search + i) for i in range(num_held_out)]
    return tuple(clips), tuple(measured)


@dataclass(frozen=True)
class CalibrationPlan:
    """What is run for a calibration.

    Attributes:
        search: clips on which schedules are searched.
        held_out: other clips, on which the curve is measured.
        bridge: how reused steps get their residual; where it is fitted and candidates are tried, one of them takes
            the damped bridge instead, which is better where gaps are short.
        candidates: schedules per measured number of computed steps that are tried on the search clips.
        batch_size: clips sampled together.
    """

    search: tuple[Clip, ...]
    held_out: tuple[Clip, ...]
    bridge: BridgeConfig = BridgeConfig("fitted", weight=0.5)
    candidates: int = 3
    batch_size: int = 1

    def check(self, num_steps: int) -> None:
        """Raises: ValueError when a run has too few steps to leave any out."""
        if num_steps < FEWEST_STEPS:
            raise ValueError(f"a run of {num_steps} steps is too short to be calibrated; take at least {FEWEST_STEPS}")

    @property
    def bridges(self) -> tuple[BridgeConfig, ...]:
        """The bridges to choose from, the first one where nothing is tried."""
        return (self.bridge, DAMPED) if self.bridge.kind == "fitted" and self.candidates > 1 else (self.bridge,)

    def probed_steps(self, num_steps: int) -> list[int]:
        """Steps at which one residual is reused to see what that does to the end; never the first."""
        return sorted({min(max(1, round(part * num_steps)), num_steps - 1) for part in PROBED})

    def measured_counts(self, num_steps: int) -> list[int]:
        """Numbers of computed steps that are measured."""
        counts = {round(part * num_steps) for part in MEASURED}
        return sorted(count for count in counts if FEWEST_COMPUTED <= count < num_steps)

    def num_candidates(self, num_computed: int, num_steps: int) -> int:
        """How many schedules of ``num_computed`` steps are tried; of few steps there are few variations."""
        return min(self.candidates, len(self.bridges) + (num_computed - 1) * (num_steps - num_computed))

    def num_clips(self, num_steps: int) -> int:
        """How many clips are sampled in all, most of them with some steps reused."""
        counts = self.measured_counts(num_steps)
        recorded = 1 + len(self.probed_steps(num_steps))
        tried = sum(self.num_candidates(count, num_steps) for count in counts)
        selection = 1 + tried if self.candidates > 1 else 0
        return len(self.search) * (recorded + selection) + len(self.held_out) * (1 + len(counts))
