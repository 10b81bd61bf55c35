"""Reuse of single branches: each adds again what it added when it was last computed."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adacache.options import BridgeConfig
from adacache.policies.base import BranchPolicy
from adacache.reuse.base import Reuse, Step
from adacache.shard import WHOLE, Shard
from adacache.sites import Site
from adacache.storage import KeptTensor, TensorStore, standalone
from adacache.trace import Trace


class BranchReuse(Reuse):
    """Runs the stack at every step, but lets single branches add an earlier step's residual, as a `BranchPolicy` says.

    The step counts as computed; the trace has the share of its branches that were computed. If other frames take part
    in some videos of a batch, the branches are computed for all videos, but only these take the new residuals.
    """

    name = "branches"
    by_video = False  # such policies go by the time alone, the same for every video
    takes_branches = True
    measures = True
    policy: BranchPolicy

    def __init__(self, policy: BranchPolicy, bridge: BridgeConfig, store: TensorStore, shard: Shard = WHOLE) -> None:
        super().__init__(policy, bridge, store, shard)
        self._kept: dict[tuple[str, Site], KeptTensor] = {}
        self._outdated: dict[tuple[str, Site], tuple[bool, ...]] = {}  # one bool per video, at least one True
        self._num_asked = self._num_computed = 0

    def forget(self, videos: Sequence[bool] | None) -> None:
        """Renew these videos' rows when each branch is next asked for; the other videos go on as they would alone."""
        if videos is None or all(videos):
            self.free()
        for key in self._kept:
            before = self._outdated.get(key, (False,) * len(videos))
            self._outdated[key] = tuple(map(max, before, videos))

    def begin_step(self, step: Step) -> None:
        """Tell the policy the time, and begin to count branches anew."""
        self.policy.begin_step(step.index, step.timestep)
        self._num_asked = self._num_computed = 0

    def branch(self, context: str, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """Return `compute()`, or what it returned the last time that it was called."""
        key = (context, site)
        self._num_asked += 1
        reused = key in self._kept and not self.policy.computes(site)
        outdated = self._outdated.pop(key, None)
        if reused and outdated is None:
            return self._kept[key].fetch()
        self._num_computed += 1
        if not reused:
            self._kept.pop(key, None)  # freed before its successor is computed
        residual = compute()
        if reused:
            residual = _renewed(self._kept.pop(key).fetch(), residual, outdated)
        if self.policy.keeps(site):
            self._kept[key] = self.store.keep(standalone(residual))
        return residual

    def settle(self, trace: Trace) -> None:
        """Record the share of branches that were computed."""
        if self._num_asked:
            trace.records[-1] = replace(trace.records[-1], computed_share=self._num_computed / self._num_asked)

    def free(self) -> None:
        """Free all residuals."""
        self._kept.clear()
        self._outdated.clear()

    @property
    def kept(self) -> list[KeptTensor]:
        """A residual for each branch that is reused."""
        return list(self._kept.values())


def _renewed(kept: Tensor, computed: Tensor, videos: Sequence[bool]) -> Tensor:
    """Return `computed` in the rows of the videos that are True, else `kept`; row r is of video r % len(videos)."""
    rows = torch.tensor([videos[row % len(videos)] for row in range(len(kept))]).to(kept.device, non_blocking=True)
    return torch.where(rows.view(-1, *[1] * (kept.ndim - 1)), computed, kept)
