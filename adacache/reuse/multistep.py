"""Reuse of the model's outputs: a combination of the last computed ones stands in until the next computed step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adacache.options import BridgeConfig
from adacache.policies.multistep import MultistepPolicy
from adacache.reuse.base import Reuse, Step, nothing_kept
from adacache.shard import WHOLE, Shard
from adacache.storage import KeptTensor, TensorStore
from adacache.trace import Trace


class MultistepReuse(Reuse):
    """Combines a computed step's output with those before it, and returns the combination again at every reused step.

    Each guidance half is combined by itself, in float32. Halves are numbered by their row in a call, then by the order
    of the contexts.
    """

    name = "outputs"
    takes_output = True
    holds_output = True
    measures = True
    policy: MultistepPolicy

    def __init__(self, policy: MultistepPolicy, bridge: BridgeConfig, store: TensorStore, shard: Shard = WHOLE) -> None:
        super().__init__(policy, bridge, store, shard)
        self._outputs: dict[str, list[tuple[int, KeptTensor]]] = {}  # step and output, the newest first
        self._combined: dict[str, KeptTensor] = {}
        self._halves: dict[str, range] = {}  # of each context

    def forget(self, videos: Sequence[bool] | None) -> None:
        """Drop the outputs of all videos; there is only one, since each video has its own track."""
        self.free()

    def begin_step(self, step: Step) -> None:
        """Drop the combinations of the computed step before, if this one is computed."""
        if step.computed:
            self._combined.clear()

    def output(self, step: Step, context: str, latents: Tensor, output: Tensor, observed: bool) -> Tensor:
        """Return the combination of `output` and those before it; at a reused step, return the last one again.

        Raises:
            ValueError: the run has more guidance halves than there are coefficients for.
        """
        if not step.computed:
            return self.held(context)
        kept = self._outputs.setdefault(context, [])
        kept.insert(0, (step.index, self.store.keep(output.detach().clone(), exact=True)))
        halves = self._halves_of(context, len(output))
        coefficients = self.policy.coefficients([index for index, _ in kept])[halves.start : halves.stop]
        if all(weight == (place == 0) for half in coefficients for place, weight in enumerate(half)):
            self._combined[context] = kept[0][1]  # a plain hold, bit for bit
        else:
            combined = _combine(coefficients, [tensor.fetch() for _, tensor in kept])
            self._combined[context] = self.store.keep(combined, exact=True)
            output = combined.clone()  # loops may change it in place
        del kept[max(1, self.policy.num_outputs - 1) :]
        return output

    def held(self, context: str) -> Tensor:
        """Return the combination that replaces the model's output at a reused step.

        Raises:
            RuntimeError: no computed step had this context.
        """
        if context not in self._combined:
            raise nothing_kept(context, self._combined)
        return self._combined[context].fetch().clone()

    def settle(self, trace: Trace) -> None:
        """Refuse, with a ValueError, a step with fewer guidance halves than there are coefficients for."""
        found = sum(map(len, self._halves.values()))
        if self._halves and self.shard.half is None and found != self.policy.num_halves:
            raise self._wrong_halves(found)

    def free(self) -> None:
        """Free all outputs."""
        self._outputs.clear()
        self._combined.clear()
        self._halves.clear()

    @property
    def kept(self) -> list[KeptTensor]:
        """Outputs and combinations, each tensor once."""
        outputs = [tensor for history in self._outputs.values() for _, tensor in history]
        return [*outputs, *(tensor for tensor in self._combined.values() if tensor not in outputs)]

    def _halves_of(self, context: str, num_rows: int) -> range:
        if context not in self._halves:
            first = self.shard.half or sum(map(len, self._halves.values()))
            self._halves[context] = range(first, first + num_rows)
            if first + num_rows > self.policy.num_halves:
                raise self._wrong_halves(first + num_rows)
        return self._halves[context]

    def _wrong_halves(self, found: int) -> ValueError:
        return ValueError(
            f"the coefficients are for {self.policy.num_halves} guidance half(s), but this run has {found} for each "
            "video; calibrate with the guidance of this run"
        )


def _combine(coefficients: Sequence[Sequence[float]], outputs: Sequence[Tensor]) -> Tensor:
    """Return rows (G, ...) of the newest output's dtype: for each, the weighted sum of `outputs`, the newest first."""
    rows = []
    for row, weights in enumerate(coefficients):
        total = outputs[0][row].float() * weights[0]
        for weight, output in zip(weights[1:], outputs[1:], strict=False):
            total = total.add_(output[row].float(), alpha=weight)
        rows.append(total)
    return torch.stack(rows).to(outputs[0].dtype)
