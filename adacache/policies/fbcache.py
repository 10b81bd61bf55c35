"""FBCache: the first block is computed at every step, and its change decides whether the others are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from adacache.options import BridgeConfig
from adacache.policies.base import Decision, PolicyConfig, SignalChange, SignalPolicy, TensorCounts
from adacache.validation import check_positive


@dataclass(frozen=True)
class FBCacheConfig(PolicyConfig):
    """The less the first block's residual changed since the last computed step, the safer it is to reuse the rest.

    At every step the first block runs, and its residual r (output - input) is compared with r' of the last computed
    step: mean|r - r'| / mean|r'|. Up to `threshold` the other blocks are skipped and what they added at that step is
    added again; above it they run. No step is forced: the first has nothing to be compared with, and the last may be
    reused. A reused step costs one block.

    Raises:
        ValueError: an option is wrong; the message names it.

    Source: first block cache of ParaAttention and diffusers (`FirstBlockCacheConfig`). Three things differ. In
    diffusers each guidance branch decides for itself; here one decision serves them all. In diffusers all videos of a
    batch are measured together; here only with schedule="batch". And in diffusers a change that is NaN, as when
    residuals overflowed, lets the step be reused; here the step is computed.
    """

    label: ClassVar[str] = "FBCache"

    threshold: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("threshold", self.threshold)

    def make_policy(self, num_steps: int) -> FBCachePolicy:
        """A policy for one run; a ValueError unless `num_steps` is a whole number >= 1."""
        self.validate(num_steps)
        return FBCachePolicy(self.threshold)


class FBCachePolicy(SignalPolicy):
    """The policy of an `FBCacheConfig`; it has no state, as the reference is the last computed step's signal."""

    signal: ClassVar[str] = "first_block"
    reference: ClassVar[Literal["previous", "computed"]] = "computed"
    reuse: ClassVar[str] = "adacache.reuse.stack:TailReuse"

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def decide(self, step_index: int, change: SignalChange | None) -> Decision:
        """Compute unless the change is at most the threshold; `distance` and `value` are both the change."""
        if change is None:
            return Decision(True)
        distance = change.relative
        reused = distance <= self._threshold  # false for NaN
        return Decision(not reused, distance, distance)

    def tensor_counts(self, bridge: BridgeConfig, num_contexts: int, num_blocks: int | None) -> TensorCounts:
        """Return one more hidden state for each context: the head, while the blocks of a step run."""
        counts = super().tensor_counts(bridge, num_contexts, num_blocks)
        return counts._replace(hidden_states=counts.hidden_states + num_contexts)
