"""What is measured of residuals and signals: sums in float32 on their own device, read when the host needs them."""

from collections.abc import Sequence
from functools import reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from adacache.frames import FrameSet
from adacache.policies.base import Measurement, SignalChange
from adacache.shard import WHOLE, Shard, shared_means
from adacache.sites import Site, SiteGroup
from adacache.storage import HostCopy, KeptTensor, TensorStore, standalone

NORM_UP_TO = 2**15  # elements


def change_terms(previous: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    """sum|previous - current| and sum|previous| over all elements, 0-dim float32 tensors on their device.

    Both have one shape, e.g. (B, N, C), and any float dtype; bfloat16 is widened before it is subtracted, so that small
    changes survive. Their `ratio` is the relative change. They are apart because a tensor that is spread over processes
    needs both sums from everyone before the division.

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
    # The 1-norm is what the official code takes, and up to its rounding MoReg's eighth power can be compared with it.
    # On the CPU it adds up elements one after another, which over millions of float32 loses the sum.
    return torch.linalg.vector_norm(a, ord=1) if a.numel() <= NORM_UP_TO else a.abs().sum()


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, with 0 / 0 = 0: where there is nothing to change, nothing changed."""
    return torch.where(numerator == 0, torch.zeros_like(numerator), numerator / denominator)


def motion_score(
    residual: Tensor, tokens_per_frame: int, strides: Sequence[int], frames: FrameSet | None = None
) -> Tensor | None:
    """The relative difference of frames: 0 for a still residual, at most 1; a 0-dim float32 tensor.

    `residual` is (B, N, C) with its tokens frame by frame (N = frames * tokens_per_frame). For every stride,
    frames that lie so far apart are compared, sum|later - earlier| / (sum|later| + sum|earlier|); the score
    is the mean over the strides. Strides that leave no pair of frames are left out. With none left, as for an
    image, there is no motion to speak of and the answer is None (the official code divides 0 by 0 there).

    Of videos that are given in part, only pairs of `frames` count of which both are generated: held ones stand still
    because they are held.

    Raises:
        ValueError: the tokens do not make whole frames.

    Source: arXiv:2411.02397, Motion Regularization (motion score).
    """
    return score_of_terms(motion_terms(residual, tokens_per_frame, strides, frames))


def motion_terms(
    residual: Tensor, tokens_per_frame: int, strides: Sequence[int], frames: FrameSet | None = None
) -> list[Tensor]:
    """Numerator and denominator for each stride of `motion_score`, one after the other, as 0-dim tensors.

    They are apart because tokens that are spread over processes need the sums from everyone before the division.

    Raises:
        ValueError: as `motion_score`.
    """
    num_tokens = residual.shape[1]
    if tokens_per_frame < 1 or num_tokens % tokens_per_frame != 0:
        raise ValueError(
            f"{num_tokens} tokens do not make whole frames of tokens_per_frame={tokens_per_frame}; "
            "pass (B, N, C) residuals with N = frames * tokens_per_frame"
        )
    terms = []
    for stride in strides:
        pairs = _pairs(residual, stride, tokens_per_frame, frames or FrameSet())
        if pairs is not None:
            later, earlier = pairs
            terms += [absolute_change(later, earlier), magnitude(later) + magnitude(earlier)]
    return terms


def score_of_terms(terms: Sequence[Tensor]) -> Tensor | None:
    """The motion score that `motion_terms`, summed over all parts of a video, stand for; None without any."""
    scores = [ratio(*pair) for pair in zip(terms[::2], terms[1::2], strict=True)]
    return torch.stack(scores).mean() if scores else None


def _pairs(residual: Tensor, stride: int, tokens_per_frame: int, frames: FrameSet) -> tuple[Tensor, Tensor] | None:
    """Later and earlier frames that lie `stride` apart, of one shape; None where there are none."""
    if frames.videos is not None:
        return frames.take_pairs(residual, stride)
    shift = stride * tokens_per_frame
    if shift >= residual.shape[1]:
        return None
    return residual[:, shift:], residual[:, :-shift]  # (B, N - shift, C) each


class _Previous(NamedTuple):
    """What a computed step leaves for the next one: a residual, and the frames that took part."""

    residual: KeptTensor
    frames: FrameSet


class _Pending(NamedTuple):
    """A measurement of this process' part, on the device: numerators and denominators, 0-dim each."""

    site: Site
    terms: list[Tensor]  # of the distance, then of the motion score at each stride


class _Sent(NamedTuple):
    """Measurements of one forward pass whose numbers are on their way to the host, in the order of `sites`."""

    sites: list[tuple[Site, bool]]  # and whether motion was measured, too
    numbers: HostCopy


class BranchMeter:
    """Compares the residuals of the observed sites with those of the previous computed step.

    It holds one residual per observed group of sites, by default a reference to the tensor the model made, not a
    copy. A `store` may move it, but not narrow it: rounding would add to every distance, most to the small ones that
    long reuse rests on, and the schedule of a video should not depend on how its memory is saved. Distances stay on
    the device until the end of a forward pass, and the host waits for them at `read_out` only. Where a `shard` says
    that other processes hold the rest of the video, the sums of all of a forward pass are exchanged at its end, at
    once.

    Distances are of frames that were generated in both of the compared steps, motion of those that are in the later
    one: a frame that is held hardly changes, and would make the others seem calmer than they are. Where there is no
    such frame, nothing is measured.
    """

    def __init__(
        self, observed_sites: tuple[SiteGroup, ...], store: TensorStore | None = None, shard: Shard = WHOLE
    ) -> None:
        self._groups = observed_sites
        self._store = store or TensorStore()
        self._shard = shard
        self._group_of: dict[Site, SiteGroup] = {site: group for group in observed_sites for site in group}
        self._previous: dict[SiteGroup, _Previous] = {}
        self._parts: dict[SiteGroup, list[Tensor]] = {}
        self._measured: list[_Pending] = []  # in this forward pass, of this process' part
        self._sent: list[_Sent] = []
        self._complete: set[SiteGroup] = set()
        self._tokens_per_frame = 1
        self._strides: tuple[int, ...] = ()
        self._frames = FrameSet()

    def begin_forward(self, tokens_per_frame: int, strides: tuple[int, ...], frames: FrameSet | None = None) -> None:
        """Get ready for one computed forward pass; `strides` are empty where motion is not measured.

        `frames` are those that take part in this step, None for all.
        """
        self._tokens_per_frame = tokens_per_frame
        self._strides = strides
        self._frames = frames or FrameSet()
        self._parts.clear()
        self._measured.clear()
        self._complete.clear()

    def observe(self, site: Site, residual: Tensor) -> None:
        """Take a site's residual, (B, N, C) or (B, T, S, C); sites nobody asked for are ignored."""
        group = self._group_of.get(site)
        if group is None:
            return
        parts = self._parts.setdefault(group, [])
        parts.append(residual.detach())
        if len(parts) == len(group):
            self._measure(site, group, reduce(torch.add, self._parts.pop(group)))

    def _measure(self, site: Site, group: SiteGroup, residual: Tensor) -> None:
        self._complete.add(group)
        current = residual.flatten(1, -2)
        if group in self._previous:
            # Not prefetched: it would take up the device's memory through all of the blocks before this one.
            previous = self._previous.pop(group)
            in_both = previous.frames.common(self._frames)
            if not in_both.is_empty:
                held = in_both.part(self._shard.frames) if self._shard.splits_frames(site.stream) else in_both
                distance = change_terms(held.take(previous.residual.fetch()), held.take(current))
                self._measured.append(_Pending(site, [*distance, *self._motion_terms(site, residual)]))
        self._previous[group] = _Previous(self._store.keep(standalone(current), exact=True), self._frames)

    def _motion_terms(self, site: Site, residual: Tensor) -> list[Tensor]:
        if not self._strides:
            return []
        if self._shard.splits_frames(site.stream):
            residual = self._shard.all_frames(residual)
        tokens_per_frame = residual.shape[2] if residual.ndim == 4 else self._tokens_per_frame
        return motion_terms(residual.flatten(1, -2), tokens_per_frame, self._strides, self._frames)

    def end_forward(self) -> None:
        """Sum up over all processes; each calls this at the same point, and none waits for a number here.

        Raises:
            RuntimeError: the forward pass did not come by every observed site.
        """
        missing = [str(site) for group in self._groups if group not in self._complete for site in group]
        if missing:
            raise RuntimeError(
                f"the forward pass never reported {', '.join(missing)}; choose metric_blocks that the model "
                "has, and let the model pass this branch through controller.branch"
            )
        terms = [term for item in self._measured for term in item.terms]
        sums = iter(self._shard.sum(torch.stack(terms)).unbind() if terms else ())
        sites, numbers = [], []
        for item in self._measured:
            own = [next(sums) for _ in item.terms]
            motion = score_of_terms(own[2:])
            numbers += [ratio(*own[:2])] if motion is None else [ratio(*own[:2]), motion]
            sites.append((item.site, motion is not None))
        if numbers:
            self._sent.append(_Sent(sites, HostCopy(torch.stack(numbers))))
        self._measured.clear()

    def read_out(self) -> list[Measurement]:
        """The measurements since the last read-out, in execution order; the host waits here, if it was quick."""
        sent, self._sent = self._sent, []
        measurements = []
        for sites, copy in sent:
            numbers = iter(copy.read())
            measurements += [
                Measurement(site, next(numbers), next(numbers) if has_motion else None) for site, has_motion in sites
            ]
        return measurements

    def free(self) -> None:
        """Let go of everything."""
        self._previous.clear()
        self._parts.clear()
        self._measured.clear()
        self._sent.clear()

    @property
    def kept(self) -> list[KeptTensor]:
        """What is held now for the next computed step."""
        return [previous.residual for previous in self._previous.values()]

    @property
    def nbytes(self) -> int:
        """Bytes held now between forward passes."""
        return sum(residual.nbytes for residual in self.kept)


class SignalMeter:
    """Compares a signal with that of the step before, or of the last computed step, and keeps it for the next time.

    A signal has any shape, the same throughout a run, with the frames of videos in dimension 1; of a `shard`, those
    that it holds, or where it `is_whole` all of them. It is kept exactly as it came, whatever the store narrows.

    Attributes:
        frames: that a signal has, of all.
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

    def measure(self, signal: Tensor, frames: FrameSet | None = None) -> tuple[Tensor, Tensor] | None:
        """mean|signal - reference| and mean|reference| over `frames` (None for all) of the video, as 0-dim tensors.

        None where there is no reference yet, or no frame to compare.

        Raises:
            ValueError: the signal's shape changed.
        """
        frames = frames or FrameSet()
        if self._kept is None or frames.is_empty:
            return None
        held = frames.part(self.frames)
        current = held.take(signal.detach())
        difference, magnitude = shared_means(
            change_terms(held.take(self._kept.fetch()), current), current.numel(), self._shard
        )
        return difference, magnitude

    def settle(self, signal: Tensor, computed: bool) -> None:
        """Keep the signal of a step, now that it is known whether it is `computed`, if it is to be a reference."""
        if computed or self._reference == "previous":
            self._kept = self._store.keep(standalone(signal), exact=True)

    def free(self) -> None:
        """Let go of the reference."""
        self._kept = None

    @property
    def kept(self) -> list[KeptTensor]:
        """What is held now."""
        return [] if self._kept is None else [self._kept]


def sea_filter(latents: Tensor, timestep: float) -> Tensor:
    """Latents (B, T, C, H, W) as a linear denoiser sees them at a flow's time, 1000 for noise down to 0; in float32.

    Over frames, height and width, frequencies f (cycles per sample) of a power spectrum |f|^-3 on each axis are
    multiplied with the Wiener filter's gain for the share of noise at that time; its mean over frequencies is 1.

    Raises:
        ValueError: latents without these axes.

    Source: arXiv:2602.18993, SeaCache, and its implementation in diffusers.
    """
    if latents.ndim != 5:
        raise ValueError(
            f"SeaCache filters latents over frames, height and width, (B, T, C, H, W), but this model's are "
            f"{tuple(latents.shape)}; take a policy that does not filter them, such as easycache"
        )
    noise = min(max(timestep / 1000, 1e-6), 1 - 1e-6)
    spectrum = torch.fft.fftn(latents.float(), dim=(1, 3, 4))
    for axis in (1, 3, 4):
        inverse_power = torch.fft.fftfreq(latents.shape[axis], device=latents.device).abs() ** 3
        gain = (1 - noise) / ((1 - noise) ** 2 + noise**2 * inverse_power)
        spectrum = spectrum * (gain / gain.mean()).view(-1, *[1] * (4 - axis))
    return torch.fft.ifftn(spectrum, dim=(1, 3, 4)).real


def read_changes(measured: Sequence[tuple[Tensor, Tensor] | None]) -> list[SignalChange | None]:
    """What meters measured, as plain numbers; the host waits for the device once."""
    scalars = [scalar for pair in measured if pair is not None for scalar in pair]
    numbers = iter(torch.stack(scalars).tolist() if scalars else [])
    return [None if pair is None else SignalChange(next(numbers), next(numbers)) for pair in measured]
