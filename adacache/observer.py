"""The tensor side of measuring: which residuals are looked at, and when their numbers reach the host."""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from adacache.distance import change_terms, motion_terms, ratio, score_of_terms
from adacache.frames import FrameSet
from adacache.host_copy import HostCopy
from adacache.policies.base import Measurement
from adacache.shard import WHOLE, Shard
from adacache.sites import Site, SiteGroup
from adacache.storage import KeptTensor, TensorStore, standalone


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


class ResidualObserver:
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

        Raises: RuntimeError when the forward pass did not come by every observed site.
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
