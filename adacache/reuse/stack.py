"""Reuse of the stack: the residual of all blocks, held as it was or extrapolated from the last ones."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from adacache.frames import ALL_FRAMES, FrameSet
from adacache.options import BridgeConfig
from adacache.policies.base import Policy
from adacache.reuse.base import Reuse, Step, nothing_kept
from adacache.shard import WHOLE, Shard
from adacache.storage import KeptTensor, TensorStore
from adacache.trace import Trace


class StackReuse(Reuse):
    """Keeps the residual of all blocks at computed steps, and adds it at reused ones as the bridge says."""

    def __init__(self, policy: Policy, bridge: BridgeConfig, store: TensorStore, shard: Shard = WHOLE) -> None:
        super().__init__(policy, bridge, store, shard)
        self._histories: dict[str, ResidualHistory] = {}  # by guidance context

    def forget(self, videos: Sequence[bool] | None) -> None:
        """Drop the residuals of all videos: one video's rows of a history are of no use without the others'."""
        for history in self._histories.values():
            history.forget()

    def begin_step(self, step: Step) -> None:
        """Start to bring a reused step's residuals back while the model embeds its input."""
        if not step.computed:
            for history in self._histories.values():
                history.prefetch()

    def begin_blocks(self, context: str) -> None:
        """Make room for the next residual."""
        if context in self._histories:
            self._histories[context].make_room()

    def keep(self, step: Step, context: str, hidden_states: Tensor, output: Tensor) -> None:
        """Keep output - hidden_states."""
        history = self._histories.setdefault(context, ResidualHistory(self.bridge, self.store, self.shard))
        history.store(step.index, output - hidden_states, step.frames)

    def add(self, step: Step, context: str, hidden_states: Tensor) -> Tensor:
        """Return `hidden_states` plus the bridged residual.

        Raises:
            RuntimeError: nothing is kept for the context.
            ValueError: what is kept has another shape or dtype.
        """
        history = self._histories.get(context)
        if history is None or history.is_empty:
            raise nothing_kept(context, [name for name, known in self._histories.items() if not known.is_empty])
        return history.add(step.index, hidden_states)

    def finish(self, trace: Trace) -> None:
        """Write the bridge's weights into the trace; nothing waited for them during the run."""
        if self.bridge.kind not in ("fitted", "exponential") or not self._histories:
            return
        first = next(iter(self._histories.values()))  # of the observed context
        for index, weight in first.read_weights().items():
            trace.records[index] = replace(trace.records[index], bridge_weight=weight)

    def free(self) -> None:
        """Free all residuals."""
        self._histories.clear()

    @property
    def kept(self) -> list[KeptTensor]:
        """The residuals of all contexts."""
        return [kept for history in self._histories.values() for kept in history.kept]


class TailReuse(StackReuse):
    """Reuses the residual except for its head: the first part, which is the policy's signal, is new at every step."""

    name = "tail"
    takes_signal = True

    def __init__(self, policy: Policy, bridge: BridgeConfig, store: TensorStore, shard: Shard = WHOLE) -> None:
        super().__init__(policy, bridge, store, shard)
        self._heads: dict[str, Tensor] = {}  # by context, while a step lasts

    def begin_step(self, step: Step) -> None:
        """Drop the heads of the step before."""
        self._heads.clear()
        super().begin_step(step)

    def take_signal(self, context: str, signal: Tensor) -> None:
        """Note the head of this step's residual."""
        self._heads[context] = signal

    def keep(self, step: Step, context: str, hidden_states: Tensor, output: Tensor) -> None:
        """Keep what the blocks after the head added."""
        super().keep(step, context, hidden_states + self._heads.pop(context), output)

    def add(self, step: Step, context: str, hidden_states: Tensor) -> Tensor:
        """Add this step's own head and the residual of the blocks after it."""
        return super().add(step, context, hidden_states + self._heads.pop(context))

    def free(self) -> None:
        """Free heads and residuals."""
        super().free()
        self._heads.clear()


class ResidualHistory:
    """The stack's last residuals of one track in one guidance context, and the bridge from them to a reused step.

    Residuals have any shape, the same throughout a run. Only `read_weights` waits for the device. Without a `store`,
    residuals are kept by reference; with one that narrows them, the bridge works on the narrowed values. With a
    `shard`, residuals are its part of the videos, but a weight is fitted to the whole.
    """

    def __init__(self, bridge: BridgeConfig, store: TensorStore | None = None, shard: Shard = WHOLE) -> None:
        self._bridge = bridge
        self._shard = shard
        self._store = store or TensorStore()
        self._weights: dict[int, Tensor | float] = {}  # by the residual's step; fitted ones are 0-dim tensors
        self._kept: list[tuple[int, KeptTensor]] = []  # (step, residual), the latest last

    def make_room(self) -> None:
        """Drop, before the next residual is computed, what will not be needed once it exists."""
        if self._bridge.num_residuals == 1:
            self._kept.clear()

    def forget(self) -> None:
        """Drop all residuals; the next one is bridged like the first of a run."""
        self._kept.clear()

    def store(self, step_index: int, residual: Tensor, frames: FrameSet = ALL_FRAMES) -> None:
        """Keep the residual of a computed step, without its autograd graph.

        The weight is fitted to `frames` only, which must be the same since the last `forget`; what is
        added to the other frames does not matter.
        """
        residual = residual.detach()
        self._weights[step_index] = self._weight(step_index, residual, frames)
        while len(self._kept) >= self._bridge.num_residuals:  # before the new one is kept
            self._kept.pop(0)
        self._kept.append((step_index, self._store.keep(residual)))

    def prefetch(self) -> None:
        """Start to bring the residuals back ahead of the `add` of a reused step."""
        for _, residual in self._kept:
            residual.prefetch()

    def add(self, step_index: int, hidden_states: Tensor) -> Tensor:
        """Return `hidden_states` plus the bridged residual of the reused step `step_index`, as a new tensor.

        Raises:
            ValueError: the stored residuals have another shape, or a dtype that cannot hold the sum.
        """
        last_step, kept = self._kept[-1]
        # Under autocast, blocks turn bfloat16 into float32, and so does their residual.
        fits = torch.promote_types(kept.dtype, hidden_states.dtype) == kept.dtype
        if kept.shape != hidden_states.shape or not fits:
            raise ValueError(
                f"the residual stored at step {last_step} is {_describe(kept)}, the hidden states are "
                f"{_describe(hidden_states)}; start a new run when the shape or dtype of the latents changes"
            )
        last = kept.fetch()
        result = hidden_states + last
        for (_, earlier), share in zip(self._kept[:-1], self._shares(step_index), strict=True):
            result = result + (last - earlier.fetch()) * _in_dtype_of(share, last)
        return result

    def read_weights(self) -> dict[int, float]:
        """Return the bridge's weight after every stored residual, by its step; waits for the device."""
        fitted = {step: weight for step, weight in self._weights.items() if isinstance(weight, Tensor)}
        numbers = torch.stack(list(fitted.values())).tolist() if fitted else []
        return {**self._weights, **dict(zip(fitted, numbers, strict=True))}

    def _shares(self, step_index: int) -> list[Tensor | float]:
        """Return, for each residual before the last one, how much of the change since then a reused step adds."""
        if len(self._kept) == 1:
            return []
        steps = [step for step, _ in self._kept]
        if self._bridge.kind == "taylor":
            # The coefficients sum to 1, so those of earlier residuals can multiply changes instead: these are small
            # and lose less in bfloat16 than the residuals themselves would.
            return [-coefficient for coefficient in taylor_coefficients(steps, step_index)[:-1]]
        ratio = self._ratio(step_index - steps[-1], steps[-1] - steps[-2])
        if self._bridge.kind == "exponential":
            return [geometric_sum(self._weights[steps[-1]], ratio)]
        return [self._weights[steps[-1]] * ratio]

    def _weight(self, step_index: int, residual: Tensor, frames: FrameSet) -> Tensor | float:
        """Return how much of the latest change a reused step adds once `residual` is the latest residual."""
        if self._bridge.kind in ("hold", "taylor") or not self._kept:
            return 0.0
        if self._bridge.kind == "linear" or len(self._kept) < 2:
            return self._bridge.weight
        frames = frames.part(self._shard.frames)
        (before_step, before), (last_step, last) = ((step, frames.take(kept.fetch())) for step, kept in self._kept)
        predicted = self._ratio(step_index - last_step, last_step - before_step) * (last - before).float()
        actual = (frames.take(residual) - last).float()
        fit, power = self._shard.sum(torch.stack([(actual * predicted).sum(), predicted.square().sum()])).unbind()
        # Without any change there is no slope.
        share = torch.where(power > 0, fit / power, torch.zeros_like(power))
        return share.clamp(0, 1)

    def _ratio(self, gap: int, previous_gap: int) -> float:
        ratio = gap / previous_gap
        return ratio if self._bridge.kind == "exponential" else min(ratio, self._bridge.max_ratio)

    @property
    def kept(self) -> list[KeptTensor]:
        """The residuals held now."""
        return [residual for _, residual in self._kept]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to reuse."""
        return not self._kept


def taylor_coefficients(steps: Sequence[int], step_index: int) -> list[float]:
    """Return the factors of the residuals of computed `steps` that forecast the one of `step_index`; they sum to 1.

    The forecast is the sum of D^k (step_index - last)^k / k! over k below the number of `steps`, which ascend. D^0 is a
    step's residual; D^k is the change of D^(k-1) since the computed step before, divided by the number of steps between
    the two. If these gaps are unequal, the higher D^k are those of the source, not Newton's divided differences.

    Source: arXiv:2503.06923, TaylorSeer; for computed steps at unequal distances the implementation in diffusers.
    """
    gaps = np.diff(steps)
    differences = np.eye(len(steps))  # a row for each step: D^k as coefficients of all residuals
    forecast = differences[-1]
    for k in range(1, len(steps)):
        differences = np.diff(differences, axis=0) / gaps[k - 1 :, None]  # the first k steps have none
        forecast = forecast + differences[-1] * (step_index - steps[-1]) ** k / math.factorial(k)
    return forecast.tolist()


def geometric_sum(factor: Tensor | float, count: float) -> Tensor:
    """Return factor + factor^2 + ... + factor^count as a 0-dim tensor, by its closed form if `count` is fractional.

    `factor` lies between 0 and 1.

    Source: the forecast of dynamic mode decomposition with one real mode (Schmid, J. Fluid Mech. 656, 2010).
    """
    factor = torch.as_tensor(factor)
    left = -torch.expm1(count * factor.log())  # 1 - factor^count, exact also near 1
    return torch.where(factor < 1, factor * left / (1 - factor), torch.full_like(factor, count))


def _in_dtype_of(weight: Tensor | float, residual: Tensor) -> Tensor | float:
    """Return a weight in the residual's dtype: a float32 one would widen bfloat16 hidden states."""
    return weight.to(residual.dtype) if isinstance(weight, Tensor) else weight


def _describe(tensor: Tensor | KeptTensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
