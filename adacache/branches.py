"""What computed branches added, for policies that reuse single branches instead of the whole stack."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adacache.policies.base import BranchPolicy
from adacache.sites import Site
from adacache.storage import KeptTensor, TensorStore, standalone


class BranchCache:
    """The last residual of every branch that a policy keeps, by guidance context and site; counts how many ran."""

    def __init__(self, policy: BranchPolicy, store: TensorStore) -> None:
        self._policy = policy
        self._store = store
        self._kept: dict[tuple[str, Site], KeptTensor] = {}
        self._outdated: dict[tuple[str, Site], tuple[bool, ...]] = {}  # for each video, where any is
        self.num_asked = 0
        self.num_computed = 0

    def run(self, context: str, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """`compute()`, or what it gave the last time that it was called."""
        key = (context, site)
        self.num_asked += 1
        reused = key in self._kept and not self._policy.computes(site)
        outdated = self._outdated.pop(key, None)
        if reused and outdated is None:
            return self._kept[key].fetch()
        self.num_computed += 1
        if not reused:
            self._kept.pop(key, None)  # before its successor is there
        residual = compute()
        if reused:
            residual = _renewed(self._kept.pop(key).fetch(), residual, outdated)
        if self._policy.keeps(site):
            self._kept[key] = self._store.keep(standalone(residual))
        return residual

    def forget(self, videos: Sequence[bool]) -> None:
        """Reuse nothing of the videos that are True; their rows are new when a branch is asked for next.

        The other videos of the batch go on as they would without them.
        """
        if all(videos):
            return self.free()
        for key in self._kept:
            before = self._outdated.get(key, (False,) * len(videos))
            self._outdated[key] = tuple(map(max, before, videos))

    def free(self) -> None:
        """Let go of all residuals."""
        self._kept.clear()
        self._outdated.clear()

    @property
    def kept(self) -> list[KeptTensor]:
        """What is held now."""
        return list(self._kept.values())


def _renewed(kept: Tensor, computed: Tensor, videos: Sequence[bool]) -> Tensor:
    """`computed` in the rows of the videos that are True, `kept` in the others; row r is of video r % len(videos)."""
    rows = torch.tensor([videos[row % len(videos)] for row in range(len(kept))]).to(kept.device, non_blocking=True)
    return torch.where(rows.view(-1, *[1] * (kept.ndim - 1)), computed, kept)
