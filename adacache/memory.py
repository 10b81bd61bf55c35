"""How much memory a cache will take, estimated before there is a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adacache.options import ELEMENT_BYTES
from adacache.policies.base import PolicyConfig


@dataclass(frozen=True)
class CacheBytes:
    """What a cache holds at most: residuals for reuse, and tensors that measurements compare with.

    Attributes:
        num_residuals, residual_bytes: number of residuals, and bytes of one for the whole batch.
        num_observed, observed_bytes: the same for the tensors that measurements compare with.
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
    num_blocks: int | None = None,
    num_latents: int | None = None,
) -> CacheBytes:
    """Return the largest `StepController.nbytes` of a run, reached once the bridge has all the residuals it keeps.

    It holds between steps and while the blocks of a computed step run, for any batch. Whether the videos share one
    schedule makes no difference, as each keeps its own rows. A computed step never adds to it: "hold" frees the old
    residual before the blocks run, the other bridges free the oldest when they get a new one. If the signal is the head
    of the residual (FBCache), the result is an upper bound: one head for every context is counted, although heads live
    only while the blocks of a step run and `nbytes` leaves them out.

    Temporaries are not counted: those of measuring and fitting, several times a hidden state for a moment; the first of
    the two parts of "ca-mlp" until the second is there; with cache_device="cpu" the residuals that a reused step brings
    back to the device, when no blocks of that video run, and those of single branches, which come back one by one while
    the blocks run. Pinned memory is allocated in powers of two, so up to twice as much of it may be taken, and up to
    one more buffer for every tensor.

    Args:
        num_steps: sampling steps of the run.
        num_elements: elements of the hidden states (B, N, C) of one context; B counts the guidance rows that are
            batched.
        dtype: dtype of the hidden states.
        num_contexts: guidance branches that run one after another; the first of them is measured.
        num_blocks: blocks per stream (the model's depth); only policies that reuse single branches need it.
        num_latents: elements of the model's input in one context; only policies that filter it or reuse the output need
            it. The output is assumed to have twice as many, as with a predicted variance, and to be float32.

    Raises:
        ValueError: the config does not fit `num_steps`, or `num_blocks` or `num_latents` is missing though the policy
            needs it.
    """
    counts = config.make_policy(num_steps).tensor_counts(config.bridge, num_contexts, num_blocks)
    if num_latents is None and (counts.latents or counts.outputs or counts.filtered):
        raise ValueError("the memory of a policy that filters latents or reuses the model's output needs num_latents")
    if counts.latents or counts.outputs:
        outputs = 2 * num_latents * ELEMENT_BYTES["fp32"]
        # Policies that reuse outputs measure latents or, for a trace, hidden states; none measures both.
        measured, elements = (counts.latents, num_latents) if counts.latents else (counts.hidden_states, num_elements)
        return CacheBytes(counts.outputs, outputs, measured, elements * ELEMENT_BYTES[dtype])
    return CacheBytes(
        num_residuals=counts.residuals,
        residual_bytes=num_elements * ELEMENT_BYTES[config.cache_dtype or dtype],
        num_observed=counts.hidden_states + counts.filtered,
        observed_bytes=num_latents * ELEMENT_BYTES["fp32"] if counts.filtered else num_elements * ELEMENT_BYTES[dtype],
    )
