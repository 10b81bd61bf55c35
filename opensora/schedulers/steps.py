"""What every sampling loop does around its steps: a progress bar, and a look at whether the latents are numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from adacache.host_copy import HostCopy

if TYPE_CHECKING:
    from adacache import StepController


class NonFiniteLatentsError(RuntimeError):
    """Sampling produced NaN or infinite latents."""


class TextEncoder(Protocol):
    """What a sampler asks of a text encoder."""

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """``y`` (B, 1, L, caption_channels) features and ``mask`` (B, L)."""

    def null(self, n: int) -> Tensor:
        """Features of what ``n`` videos are guided away from, (n, 1, L, caption_channels)."""


class StepsBar:
    """Counts the steps of a run in a bar, and checks them."""

    def __init__(self, bar: tqdm, controller: StepController | None) -> None:
        self._bar = bar
        self._done = 0  # a bar that is not shown does not count
        self._controller = controller
        self._unchecked: tuple[int, float, HostCopy] | None = None  # step, its time, whether its latents are numbers

    def end_step(self, latents: Tensor, timestep: float) -> None:
        """A step is done and gave ``latents``; with a cache, computed and reused steps are shown.

        On a GPU the latents are looked at when the next step ends, so that the host can prepare it meanwhile.

        Raises:
            NonFiniteLatentsError: names the step.
        """
        self._done += 1
        self.check()
        self._unchecked = self._done, timestep, HostCopy(torch.isfinite(latents).all()[None])
        if not latents.is_cuda:
            self.check()
        if self._controller is not None:
            counts = self._controller.step_counts
            self._bar.set_postfix(
                computed=_span([computed for computed, _ in counts]),
                reused=_span([reused for _, reused in counts]),
                refresh=False,
            )
        self._bar.update()

    def check(self) -> None:
        """Look at the latents of a step that was not looked at yet.

        Raises:
            NonFiniteLatentsError: names the step.
        """
        unchecked, self._unchecked = self._unchecked, None
        if unchecked is None:
            return
        step, timestep, finite = unchecked
        if not all(finite.read()):
            raise NonFiniteLatentsError(
                f"latents became NaN or infinite in step {step} of {self._bar.total} "
                f"(timestep {timestep:.1f}); try dtype bf16 or fp32, or a smaller cfg_scale"
            )


@contextmanager
def steps_of_run(
    num_steps: int, num_samples: int, controller: StepController | None, progress: bool
) -> Iterator[StepsBar]:
    """A run of ``controller``, if there is one, and a bar that is shown with ``progress``."""
    run = nullcontext() if controller is None else controller.run(num_steps, num_samples)
    with tqdm(total=num_steps, desc="sampling", disable=not progress, leave=False) as bar, run:
        steps = StepsBar(bar, controller)
        yield steps
        steps.check()


def _span(counts: Sequence[int]) -> str:
    """The counts of a batch's videos in short: 5, or 4-6 where they differ."""
    return f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)}-{max(counts)}"
