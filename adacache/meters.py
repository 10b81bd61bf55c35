"""Measurements of residuals and signals: float32 sums on their own device, read when the host needs them."""

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from adacache.frames import ALL_FRAMES, FrameSet
from adacache.policies.base import Measurement, SignalChange
from adacache.shard import WHOLE, Shard, shared_means
from adacache.sites import Site, SiteGroup
from adacache.storage import HostCopy, KeptTensor, TensorStore, standalone

NORM_UP_TO = 2**15  # elements


def change_terms(previous: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    """Return sum|previous - current| and sum|previous| over all elements, as 0-dim float32 tensors on their device.

    Both inputs have the same shape, e.g. (B, N, C), and any float dtype; bfloat16 is widened before the subtraction, so
    that small changes survive. The `ratio` of the two sums is the relative change. They are returned separately because
    a tensor that is spread over processes needs both sums from all of them before the division.

    Raises:
        ValueError: the shapes differ.

    Source: arXiv:2411.02397, Adaptive Caching (distance metric), before the division by the number of steps in between.
    """
    if previous.shape != current.shape:
        raise ValueError(
            f"cannot compare a residual of shape {tuple(current.shape)} with the previous one of shape "
            f"{tuple(previous.shape)}; start a new run when the shape of the latents changes"
        )
    return absolute_change(previous, current), magnitude(previous)


def absolute_change(a: Tensor, b: Tensor) -> Tensor:
    """sum|a - b| as a 0-dim float32 tensor."""
    return magnitude(a.float() - b.float())


def magnitude(a: Tensor) -> Tensor:
    """sum|a| as a 0-dim float32 tensor."""
    a = a.float()
    # The official code takes the 1-norm; with it, MoReg's eighth power agrees with the official one up to rounding.
    # On the CPU, though, it adds elements one after another, which loses the sum of millions of float32 values.
    return torch.linalg.vector_norm(a, ord=1) if a.numel() <= NORM_UP_TO else a.abs().sum()


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, with 0 / 0 = 0: where there is nothing to change, nothing changed."""
    return torch.where(numerator == 0, torch.zeros_like(numerator), numerator / denominator)


def motion_terms(
    residual: Tensor, tokens_per_frame: int, strides: Sequence[int], frames: FrameSet = ALL_FRAMES
) -> list[Tensor]:
    """Return, for every stride, how much frames that lie that far apart differ, and how large they are.

    `residual` is (B, N, C) with its tokens frame by frame (N = frames * tokens_per_frame). The terms are sum|later -
    earlier| and sum|later| + sum|earlier|, one after the other, as 0-dim float32 tensors; strides without a pair of
    frames are left out. In videos with held frames, only pairs of two generated `frames` count: held frames stand still
    because they are held.

    Raises:
        ValueError: the tokens do not make whole frames.
    """
    num_tokens = residual.shape[1]
    if tokens_per_frame < 1 or num_tokens % tokens_per_frame != 0:
        raise ValueError(
            f"{num_tokens} tokens do not make whole frames of tokens_per_frame={tokens_per_frame}; "
            "pass (B, N, C) residuals with N = frames * tokens_per_frame"
        )
    terms = []
    for stride in strides:
        pairs = frames.take_pairs(residual, stride, tokens_per_frame)
        if pairs is not None:
            later, earlier = pairs
            terms += [absolute_change(later, earlier), magnitude(later) + magnitude(earlier)]
    return terms


def motion_score(terms: Sequence[Tensor]) -> Tensor | None:
    """Return the relative difference between frames: 0 for a still residual, at most 1; a 0-dim float32 tensor.

    It is the mean over the strides of the ratios of the `motion_terms`, which were summed over all parts of a video.
    Without any, as for an image, there is no motion to speak of and the result is None (the official code divides 0 by
    0 there).

    Source: arXiv:2411.02397, Motion Regularization (motion score).
    """
    scores = [ratio(*pair) for pair in zip(terms[::2], terms[1::2], strict=True)]
    return torch.stack(scores).mean() if scores else None


class BranchMeter:
    """Compares the residuals of the observed sites with those of the previous computed step.

    It holds one residual per observed group of sites, by default a reference to the model's tensor, not a copy. A
    `store` may move it, but not narrow it: rounding would add to every distance, most to the small ones on which long
    reuse rests, and a video's schedule should not depend on how memory is saved. Distances stay on the device until the
    end of a forward pass, and the host waits for them only in `read_out`. If a `shard` says that other processes hold
    the rest of the video, all sums of a forward pass are exchanged together at its end.

    Distances cover the frames that were generated in both compared steps, motion those generated in the later one: a
    held frame hardly changes, and would make the others seem calmer than they are. Without such frames nothing is
    measured.
    """

    def __init__(
        self, observed_sites: tuple[SiteGroup, ...], store: TensorStore | None = None, shard: Shard = WHOLE
    ) -> None:
        self._store = store or TensorStore()
        self._shard = shard
        self._group_of: dict[Site, SiteGroup] = {site: group for group in observed_sites for site in group}
        self._previous: dict[SiteGroup, tuple[KeptTensor, FrameSet]] = {}  # of the last computed step
        # Of the current forward pass:
        self._tokens_per_frame = 1
        self._strides: tuple[int, ...] = ()
        self._frames = ALL_FRAMES
        self._parts: dict[SiteGroup, list[Tensor]] = {}
        self._missing: dict[Site, SiteGroup] = {}
        self._terms: list[tuple[Site, list[Tensor]]] = []  # of this process's part: the distance's, then the motion's
        # Numbers on their way to the host, and of which sites they are, with motion or without.
        self._sent: tuple[list[tuple[Site, bool]], HostCopy] | None = None

    def begin_forward(self, tokens_per_frame: int, strides: tuple[int, ...], frames: FrameSet = ALL_FRAMES) -> None:
        """Prepare for one computed forward pass, in which `frames` take part.

        `strides` are empty where motion is not measured.
        """
        self._tokens_per_frame, self._strides, self._frames = tokens_per_frame, strides, frames
        self._parts.clear()
        self._terms.clear()
        self._missing = dict(self._group_of)

    def observe(self, site: Site, residual: Tensor) -> None:
        """Take a site's residual, (B, N, C) or (B, T, S, C); sites that are not observed are ignored.

        Raises:
            RuntimeError: the site was already reported in this forward pass.
        """
        group = self._group_of.get(site)
        if group is None:
            return
        if self._missing.pop(site, None) is None:
            raise RuntimeError(
                f"the forward pass reported {site} twice; call controller.branch once for each branch of each block"
            )
        parts = self._parts.setdefault(group, [])
        parts.append(residual.detach())
        if len(parts) == len(group):
            self._measure(site, group, reduce(torch.add, self._parts.pop(group)))

    def _measure(self, site: Site, group: SiteGroup, residual: Tensor) -> None:
        current = residual.flatten(1, -2)
        if group in self._previous:
            # Not prefetched: it would occupy device memory while all the blocks before this one run.
            previous, frames = self._previous.pop(group)
            in_both = frames.common(self._frames)
            if not in_both.is_empty:
                held = in_both.part(self._shard.frames) if self._shard.splits_frames(site.stream) else in_both
                distance = change_terms(held.take(previous.fetch()), held.take(current))
                self._terms.append((site, [*distance, *self._motion_terms(site, residual)]))
        self._previous[group] = self._store.keep(standalone(current), exact=True), self._frames

    def _motion_terms(self, site: Site, residual: Tensor) -> list[Tensor]:
        if not self._strides:
            return []
        if self._shard.splits_frames(site.stream):
            residual = self._shard.all_frames(residual)
        tokens_per_frame = residual.shape[2] if residual.ndim == 4 else self._tokens_per_frame
        return motion_terms(residual.flatten(1, -2), tokens_per_frame, self._strides, self._frames)

    def end_forward(self) -> None:
        """Sum over all processes; each of them calls this at the same point, and the host does not wait here.

        Raises:
            RuntimeError: the forward pass did not report every observed site.
        """
        if self._missing:
            raise RuntimeError(
                f"the forward pass never reported {', '.join(map(str, self._missing))}; choose metric_blocks that the "
                "model has, and let the model pass this branch through controller.branch"
            )
        if not self._terms:
            return
        sums = iter(self._shard.sum(torch.stack([term for _, terms in self._terms for term in terms])).unbind())
        sites, numbers = [], []
        for site, terms in self._terms:
            own = [next(sums) for _ in terms]
            motion = motion_score(own[2:])
            numbers += [ratio(*own[:2])] if motion is None else [ratio(*own[:2]), motion]
            sites.append((site, motion is not None))
        self._sent = sites, HostCopy(torch.stack(numbers))
        self._terms.clear()

    def read_out(self) -> list[Measurement]:
        """Return the last forward pass's measurements in execution order, once; waits until the device has sent them.

        There are none if there was nothing to compare.
        """
        (sites, numbers), self._sent = self._sent or ([], None), None
        values = iter(numbers.read() if numbers else ())
        return [Measurement(site, next(values), next(values) if has_motion else None) for site, has_motion in sites]

    def free(self) -> None:
        """Free all tensors."""
        self._previous.clear()
        self._parts.clear()
        self._terms.clear()
        self._sent = None

    @property
    def kept(self) -> list[KeptTensor]:
        """The residuals held now for the next computed step."""
        return [residual for residual, _ in self._previous.values()]


class SignalMeter:
    """Compares a signal with that of the step before or of the last computed step, and keeps it as the next reference.

    A signal has any shape, the same throughout a run, with the frames of videos in dimension 1: the frames that a
    `shard` holds, or all of them if the signal `is_whole`. It is kept exactly as it is, even if the store narrows
    residuals.

    Attributes:
        frames: the slice of all frames that a signal has.
    """

    def __init__(
        self,
        reference: Literal["previous", "computed"],
        store: TensorStore,
        shard: Shard = WHOLE,
        is_whole: bool = False,
    ) -> None:
        self.frames = slice(None) if is_whole else shard.frames
        self._reference = reference
        self._store = store
        self._shard = shard
        self._kept: KeptTensor | None = None

    def measure(self, signal: Tensor, frames: FrameSet = ALL_FRAMES) -> tuple[Tensor, Tensor] | None:
        """Return mean|signal - reference| and mean|reference| over `frames`, as 0-dim tensors.

        The means are over the whole video, on all processes. The result is None if there is no reference yet, or no
        frame to compare.

        Raises:
            ValueError: the signal's shape changed.
        """
        if self._kept is None or frames.is_empty:
            return None
        held = frames.part(self.frames)
        current = held.take(signal.detach())
        change = change_terms(held.take(self._kept.fetch()), current)
        return tuple(shared_means(change, current.numel(), self._shard))

    def settle(self, signal: Tensor, computed: bool) -> None:
        """Keep the signal of a decided step as a reference: of every step, or only of computed ones."""
        if computed or self._reference == "previous":
            self._kept = self._store.keep(standalone(signal), exact=True)

    def free(self) -> None:
        """Free the reference."""
        self._kept = None

    @property
    def kept(self) -> list[KeptTensor]:
        """What is held now."""
        return [] if self._kept is None else [self._kept]


def sea_filter(latents: Tensor, timestep: float) -> Tensor:
    """Return latents (B, T, C, H, W), in float32, as a linear denoiser sees them at a flow's time.

    `timestep` is 1000 for noise down to 0. Each of the frame, height and width axes is taken to have a power spectrum
    |f|^-3 over frequencies f (cycles per sample). Its frequencies are multiplied by the Wiener filter's gain for the
    share of noise at that time, scaled to a mean of 1 over the frequencies.

    Raises:
        ValueError: the latents do not have these five axes.

    Source: arXiv:2602.18993, SeaCache, and its implementation in diffusers.
    """
    if latents.ndim != 5:
        raise ValueError(
            "SeaCache filters latents over frames, height and width, (B, T, C, H, W), but this model's are "
            f"{tuple(latents.shape)}; choose a policy that does not filter them, such as easycache"
        )
    noise = min(max(timestep / 1000, 1e-6), 1 - 1e-6)
    spectrum = torch.fft.fftn(latents.float(), dim=(1, 3, 4))
    for axis in (1, 3, 4):
        inverse_power = torch.fft.fftfreq(latents.shape[axis], device=latents.device).abs() ** 3
        gain = (1 - noise) / ((1 - noise) ** 2 + noise**2 * inverse_power)
        spectrum = spectrum * (gain / gain.mean()).view(-1, *[1] * (4 - axis))
    return torch.fft.ifftn(spectrum, dim=(1, 3, 4)).real


def read_changes(measured: Sequence[tuple[Tensor, Tensor] | None]) -> list[SignalChange | None]:
    """Return the meters' measurements as plain numbers; the host waits for the device once."""
    scalars = [scalar for pair in measured if pair is not None for scalar in pair]
    numbers = iter(torch.stack(scalars).tolist() if scalars else [])
    return [None if pair is None else SignalChange(next(numbers), next(numbers)) for pair in measured]
