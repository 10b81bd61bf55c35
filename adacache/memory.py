"""How much memory a cache will take, said before there is a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adacache.options import ELEMENT_BYTES, ReuseOptions
from adacache.policies.base import PolicyConfig


@dataclass(frozen=True)
class CacheBytes:
    """What a cache holds at most: residuals for reuse, and those that measurements compare with.

    Attributes:
        num_residuals, residual_bytes: their number, and the bytes of one for the whole batch.
        num_observed, observed_bytes: the same of the residuals that are measured.
    """

    num_residuals: int
    residual_bytes: int
    num_observed: int
    observed_bytes: int

    @property
    def total(self) -> int:
        """Bytes of all of them."""
        return self.num_residuals * self.residual_bytes + self.num_observed * self.observed_bytes


def estimate_cache_bytes(
    config: PolicyConfig,
    num_steps: int,
    num_elements: int,
    dtype: Literal["fp32", "bf16", "fp16"],
    num_contexts: int = 1,
) -> CacheBytes:
    """The largest `StepController.nbytes` of a run, reached once the bridge has as many computed steps as it keeps.

    That holds between steps and while blocks run, of a computed step and of any batch. Whether its videos share one
    schedule makes no difference, as each keeps its own rows. A computed step never adds to it: "hold" lets go of the
    old residual before the blocks run, the other bridges of the oldest when they are given a new one. Not counted are
    temporaries: those of measuring and fitting, several times a hidden state for a moment; the first of the two
    parts of "ca-mlp" until the second is there; with cache_device="cpu" the residuals that a reused step brings back
    to the device, when no blocks of that video run. Pinned memory is allocated in powers of two, so that up to twice
    as much of it may be taken, and up to one more buffer for every tensor.

    Args:
        num_steps: sampling steps of the run.
        num_elements: numbers in the hidden states (B, N, C) of one context; B counts the guidance rows that are
            batched.
        dtype: of the hidden states.
        num_contexts: guidance branches that run one after another; the first of them is measured.

    Raises: ValueError when the config does not fit `num_steps`.
    """
    reuse = config if isinstance(config, ReuseOptions) else ReuseOptions()
    return CacheBytes(
        num_residuals=reuse.bridge.num_residuals * num_contexts,
        residual_bytes=num_elements * ELEMENT_BYTES[reuse.cache_dtype or dtype],
        num_observed=len(config.make_policy(num_steps).observed_sites),
        observed_bytes=num_elements * ELEMENT_BYTES[dtype],
    )
