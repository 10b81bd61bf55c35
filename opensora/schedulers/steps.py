"""What all samplers share: upstream's interface, a progress bar, and a check that the latents are finite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from adacache.storage import HostCopy
from opensora.models.text_encoder.encoded_text import EncodedText, TextEncoder

if TYPE_CHECKING:
    from adacache import StepController


class NonFiniteLatentsError(RuntimeError):
    """Sampling produced NaN or infinite latents."""


@dataclass(frozen=True)
class StepDone:
    """A finished step of a run, as `on_step` receives it.

    Attributes:
        index: index of the step, from 0.
        num_steps: number of steps of the run.
        timestep: time at which the step began.
        latents: (B, C, T, H, W) at the end of the step; not to be changed.
        num_computed: for every video, the steps computed so far; None without a cache.
    """

    index: int
    num_steps: int
    timestep: float
    latents: Tensor
    num_computed: list[int] | None


OnStep = Callable[[StepDone], None]


@dataclass(frozen=True)
class DenoiseOptions:
    """What `Sampler.denoise` takes besides the model, its text and the noise of B videos.

    Attributes:
        size: `height`, `width`, `num_frames`, `fps`, (B,) each, for models that read them.
        mask: (B, T), 1 = generate, 0 = keep, in between = strength of an edit.
        guidance_scale: replaces the sampler's `cfg_scale`.
        progress: show a bar.
        controller: step cache, whose steps are the calls of the model; None computes every step.
        generator: source of the noise that edited frames receive: one for each video, so that no video depends on the
            others of its batch, or one for all, as upstream.
        compat: cache as upstream does under a mask: held frames count in what is measured, and residuals from before
            a frame joined are reused afterwards.
        on_step: is called with every finished step; an exception that it raises ends the run.
    """

    size: Mapping[str, Tensor] | None = None
    mask: Tensor | None = None
    guidance_scale: float | None = None
    progress: bool = True
    controller: StepController | None = None
    generator: torch.Generator | Sequence[torch.Generator] | None = None
    compat: bool = False
    on_step: OnStep | None = None


class Sampler(ABC):
    """A sampling loop from noise to latents.

    Attributes:
        num_sampling_steps: steps of a run.
        cfg_scale: guidance scale.
    """

    num_sampling_steps: int
    cfg_scale: float

    @property
    @abstractmethod
    def num_model_calls(self) -> int:
        """Calls of the model in a run; with some solvers, more than its steps."""

    @abstractmethod
    def denoise(self, model: nn.Module, text: EncodedText, z: Tensor, options: DenoiseOptions) -> Tensor:
        """Turn noise into latents of videos.

        Args:
            z: noise (B, C, T, H, W); where the mask is 0, the latents to keep.

        Returns:
            Latents like `z`, float32.

        Raises:
            ValueError: the arguments do not fit each other or the model.
            NonFiniteLatentsError: a latent became NaN or infinite; the message names the step.
        """

    @torch.no_grad()
    def sample(
        self,
        model: nn.Module,
        text_encoder: TextEncoder,
        z: Tensor,
        prompts: Sequence[str],
        device: torch.device | str,
        additional_args: Mapping[str, Tensor] | None = None,
        mask: Tensor | None = None,
        guidance_scale: float | None = None,
        progress: bool = True,
        **options: Any,
    ) -> Tensor:
        """Encode `prompts` and turn the noise `z` into latents, with upstream's names of arguments.

        Args:
            device: device to sample on, to which `z` is moved.
            additional_args: the `size` of `DenoiseOptions`.
            options: further fields of `DenoiseOptions`.

        Raises:
            ValueError, NonFiniteLatentsError: as `denoise`.
        """
        text = EncodedText.of(text_encoder, prompts)
        own = DenoiseOptions(additional_args, mask, guidance_scale, progress, **options)
        return self.denoise(model, text, z.to(device), own)


class StepsBar:
    """Shows the steps of a run in a progress bar, checks their latents, and passes them to `on_step`."""

    def __init__(self, bar: tqdm, controller: StepController | None, on_step: OnStep | None) -> None:
        self._bar = bar
        self._on_step = on_step
        self._done = 0  # kept here, as a bar that is not shown does not count
        self._controller = controller
        self._unchecked: tuple[int, float, HostCopy] | None = None  # step, its time, whether its latents are finite

    def end_step(self, latents: Tensor, timestep: float) -> None:
        """Count a finished step and check its `latents`; with a cache, the bar shows computed and reused steps.

        On a GPU the latents are checked when the next step ends, so that the host can prepare that step meanwhile.

        Raises:
            NonFiniteLatentsError: they are NaN or infinite; the message names the step.
        """
        self._done += 1
        self.check()
        self._unchecked = self._done, timestep, HostCopy(torch.isfinite(latents).all()[None])
        if not latents.is_cuda:
            self.check()
        computed = None
        if self._controller is not None:
            computed, reused = zip(*self._controller.step_counts, strict=True)
            self._bar.set_postfix(computed=_format_counts(computed), reused=_format_counts(reused), refresh=False)
        self._bar.update()
        if self._on_step is not None:
            counts = None if computed is None else list(computed)
            self._on_step(StepDone(self._done - 1, self._bar.total, timestep, latents, counts))

    def check(self) -> None:
        """Check the latents of the last step, if they were not checked yet.

        Raises:
            NonFiniteLatentsError: they are NaN or infinite; the message names the step.
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
def steps_of_run(num_steps: int, num_samples: int, options: DenoiseOptions) -> Iterator[StepsBar]:
    """Begin a run of the controller (if any) and its bar."""
    controller = options.controller
    run = nullcontext() if controller is None else controller.run(num_steps, num_samples)
    with tqdm(total=num_steps, desc="sampling", disable=not options.progress, leave=False) as bar, run:
        steps = StepsBar(bar, controller, options.on_step)
        yield steps
        steps.check()


def _format_counts(counts: Sequence[int]) -> str:
    """Format the counts of a batch's videos: 5, or 4-6 if they differ."""
    return f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)}-{max(counts)}"
