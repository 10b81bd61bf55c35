"""What a calibration runs: clips to fit on, clips to measure on, and how often the model is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from adacache.validation import check_choice, check_count

Aim = Literal["repeat", "solution"]
REFERENCES = {"repeat": "the uncached video", "solution": "the exact solution"}
FEWEST_STEPS = 5  # shorter runs leave nothing to choose
FEWEST_COMPUTED = 4
REFINEMENT = 8  # steps in place of each of the sampler's, for what counts as the exact solution
MEASURED = (0.2, 0.27, 0.33, 0.4, 0.5, 0.6, 0.67, 0.8)  # fractions of the steps that are computed


@dataclass(frozen=True)
class Clip:
    """A prompt and the seed of its noise."""

    prompt: str
    seed: int


def split_clips(
    prompts: Sequence[str], num_fit: int, num_held_out: int, seed: int
) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """Return clips to fit on and clips to measure on; no prompt is in both.

    With fewer prompts than clips, prompts are repeated with other seeds: every clip has its own seed.

    Raises:
        ValueError: there are fewer than two different prompts, or one text instead of a list.
    """
    if isinstance(prompts, str):
        raise ValueError(f"prompts must be a list of prompts, got the text {prompts!r}")
    different = list(dict.fromkeys(prompts))
    if len(different) < 2:
        raise ValueError("a calibration needs at least two different prompts, one to fit on and one to measure with")
    share = round(len(different) * num_fit / (num_fit + num_held_out))
    border = max(1, min(num_fit, len(different) - 1, share))
    fit, held_out = different[:border], different[border:]
    clips = [Clip(fit[i % len(fit)], seed + i) for i in range(num_fit)]
    measured = [Clip(held_out[i % len(held_out)], seed + num_fit + i) for i in range(num_held_out)]
    return tuple(clips), tuple(measured)


@dataclass(frozen=True)
class CalibrationPlan:
    """What a calibration runs.

    Attributes:
        fit: clips to which coefficients are fitted.
        held_out: other clips, on which quality is measured.
        aim: what videos should come close to: "repeat" the video with every step computed, or the "solution" of many
            steps.
        candidates: lists of computed steps that are fitted for each count; the best one on the clips is taken.
        batch_size: clips sampled together.

    Raises:
        ValueError: an option is wrong.
    """

    fit: tuple[Clip, ...]
    held_out: tuple[Clip, ...]
    aim: Aim = "repeat"
    candidates: int = 3
    batch_size: int = 1

    def __post_init__(self) -> None:
        check_choice("aim", self.aim, get_args(Aim))
        check_count("candidates", self.candidates)
        check_count("batch_size", self.batch_size)

    def check(self, num_steps: int) -> None:
        """Refuse, with a ValueError, a run with too few steps to leave any out."""
        if num_steps < FEWEST_STEPS:
            raise ValueError(f"a run of {num_steps} steps is too short to be calibrated; take at least {FEWEST_STEPS}")

    @property
    def reference(self) -> str:
        """The videos that quality is measured against, in words."""
        return REFERENCES[self.aim]

    @property
    def refinement(self) -> int:
        """Steps of a target's run in place of each of the sampler's."""
        return REFINEMENT if self.aim == "solution" else 1

    def counts(self, num_steps: int) -> list[int]:
        """Return the numbers of computed steps that are fitted and measured."""
        counts = {round(part * num_steps) for part in MEASURED}
        return sorted(count for count in counts if FEWEST_COMPUTED <= count < num_steps)

    def num_calls(self, num_steps: int) -> int:
        """Return the total number of model calls, counted for each clip; the halves of guidance count as one."""
        targets = num_steps * self.refinement
        computed = sum(self.counts(num_steps))
        measured = targets + computed + (num_steps if self.aim == "solution" else 0)
        return len(self.fit) * (targets + self.candidates * computed) + len(self.held_out) * measured
