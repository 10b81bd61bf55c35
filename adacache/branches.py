"""What computed branches added, for policies that reuse single branches instead of the whole stack."""

from collections.abc import Callable

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
        self.num_asked = 0
        self.num_computed = 0

    def run(self, context: str, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """`compute()`, or what it gave the last time that it was called."""
        key = (context, site)
        self.num_asked += 1
        if key in self._kept and not self._policy.computes(site):
            return self._kept[key].fetch()
        self.num_computed += 1
        self._kept.pop(key, None)  # before its successor is there
        residual = compute()
        if self._policy.keeps(site):
            self._kept[key] = self._store.keep(standalone(residual))
        return residual

    def free(self) -> None:
        """Let go of all residuals."""
        self._kept.clear()

    @property
    def kept(self) -> list[KeptTensor]:
        """What is held now."""
        return list(self._kept.values())
