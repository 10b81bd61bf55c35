"""The tensor side of measuring: which residuals are looked at, and when their numbers reach the host."""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from adacache.distance import relative_change
from adacache.frames import FrameSet
from adacache.motion import motion_score
from adacache.policies.base import Measurement
from adacache.sites import Site, SiteGroup
from adacache.storage import KeptTensor, TensorStore, standalone


class _Previous(NamedTuple):
    """What a computed step leaves for the next one: a residual, and the frames that took part."""

    residual: KeptTensor
    frames: FrameSet


class _Pending(NamedTuple):
    """A measurement whose numbers are still on the device."""

    site: Site
    distance: Tensor
    motion: Tensor | None


class ResidualObserver:
    """Compares the residuals of the observed sites with those of the previous computed step.

    It holds one residual per observed group of sites, by default a reference to the tensor the model made, not a
    copy. A `store` may move it, but not narrow it: rounding would add to every distance, most to the small ones that
    long reuse rests on, and the schedule of a video should not depend on how its memory is saved. Distances stay on
    the device until `read_out`, so that a forward pass is never interrupted to wait for a number.

    Distances are of frames that were generated in both of the compared steps, motion of those that are in the later
    one: a frame that is held hardly changes, and would make the others seem calmer than they are. Where there is no
    such frame, nothing is measured.
    """

    def __init__(self, observed_sites: tuple[SiteGroup, ...], store: TensorStore | None = None) -> None:
        self._groups = observed_sites
        self._store = store or TensorStore()
        self._group_of: dict[Site, SiteGroup] = {site: group for group in observed_sites for site in group}
        self._previous: dict[SiteGroup, _Previous] = {}
        self._parts: dict[SiteGroup, list[Tensor]] = {}
        self._pending: list[_Pending] = []
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
        self._complete.clear()

    def observe(self, site: Site, residual: Tensor) -> None:
        """Take a site's residual, (B, N, C) or (B, T, S, C); sites nobody asked for are ignored."""
        group = self._group_of.get(site)
        if group is None:
            return
        parts = self._parts.setdefault(group, [])
        parts.append(residual.detach().flatten(1, -2))
        if len(parts) == len(group):
            self._measure(site, group, reduce(torch.add, self._parts.pop(group)))

    def _measure(self, site: Site, group: SiteGroup, current: Tensor) -> None:
        self._complete.add(group)
        if group in self._previous:
            # Not prefetched: it would take up the device's memory through all of the blocks before this one.
            previous = self._previous.pop(group)
            self._compare(site, previous.residual.fetch(), current, previous.frames.common(self._frames))
        self._previous[group] = _Previous(self._store.keep(standalone(current), exact=True), self._frames)

    def _compare(self, site: Site, previous: Tensor, current: Tensor, in_both: FrameSet) -> None:
        if in_both.is_empty:
            return
        motion = motion_score(current, self._tokens_per_frame, self._strides, self._frames) if self._strides else None
        self._pending.append(_Pending(site, relative_change(in_both.take(previous), in_both.take(current)), motion))

    def end_forward(self) -> None:
        """Raises: RuntimeError when the forward pass did not come by every observed site."""
        missing = [str(site) for group in self._groups if group not in self._complete for site in group]
        if missing:
            raise RuntimeError(
                f"the forward pass never reported {', '.join(missing)}; choose metric_blocks that the model "
                "has, and let the model pass this branch through controller.branch"
            )

    def read_out(self) -> list[Measurement]:
        """The measurements since the last read-out, in execution order; here the host waits, once."""
        pending, self._pending = self._pending, []
        scalars = [scalar for item in pending for scalar in (item.distance, item.motion) if scalar is not None]
        if not scalars:
            return []
        numbers = iter(torch.stack(scalars).tolist())
        return [
            Measurement(item.site, next(numbers), None if item.motion is None else next(numbers)) for item in pending
        ]

    def free(self) -> None:
        """Let go of everything."""
        self._previous.clear()
        self._parts.clear()
        self._pending.clear()

    @property
    def kept(self) -> list[KeptTensor]:
        """What is held now for the next computed step."""
        return [previous.residual for previous in self._previous.values()]

    @property
    def nbytes(self) -> int:
        """Bytes held now between forward passes."""
        return sum(residual.nbytes for residual in self.kept)
