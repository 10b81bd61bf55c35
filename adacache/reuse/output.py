"""Reuse of the whole model: its last output, shifted along with its input."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adacache.frames import FrameSet
from adacache.meters import absolute_change, magnitude
from adacache.options import BridgeConfig
from adacache.policies.base import OutputChange, OutputPolicy
from adacache.reuse.base import Reuse, Step, nothing_kept
from adacache.shard import WHOLE, Shard, shared_means
from adacache.storage import KeptTensor, TensorStore
from adacache.trace import Trace


class OutputReuse(Reuse):
    """Skips the blocks of a reused step; the model's output is its input plus the last output - input.

    After every computed step, an `OutputPolicy` is told how much input and output changed since the one before.
    """

    name = "output"
    takes_output = True
    measures = True
    policy: OutputPolicy

    def __init__(self, policy: OutputPolicy, bridge: BridgeConfig, store: TensorStore, shard: Shard = WHOLE) -> None:
        super().__init__(policy, bridge, store, shard)
        self._histories: dict[str, OutputHistory] = {}
        self._measured: list[Tensor] = []  # in the observed context, until it is read

    def forget(self, videos: Sequence[bool] | None) -> None:
        """Drop the inputs and outputs of all videos."""
        self._histories.clear()

    def output(self, step: Step, context: str, latents: Tensor, output: Tensor, observed: bool) -> Tensor:
        """Return and keep `output` at a computed step; at a reused one, shift the last output along with `latents`."""
        if not step.computed:
            if context not in self._histories:
                raise nothing_kept(context, self._histories)
            return self._histories[context].add(latents)
        history = self._histories.setdefault(context, OutputHistory(self.store, self.shard))
        if observed:
            self._measured = history.measure(latents.detach(), output.detach(), step.frames)
        history.store(latents.detach(), output.detach())
        return output

    def settle(self, trace: Trace) -> None:
        """Tell the policy how input and output of a computed step changed, if any frame was measured."""
        if self._measured:
            output_magnitude, *changes = torch.stack(self._measured).tolist()
            change = OutputChange(*(changes or (None, None)), output_magnitude)
            self.policy.observe_output(trace.records[-1].index, change)
            self._measured = []

    def free(self) -> None:
        """Free inputs and outputs."""
        self._histories.clear()
        self._measured = []

    @property
    def kept(self) -> list[KeptTensor]:
        """Inputs and outputs, of the size of latents."""
        return [kept for history in self._histories.values() for kept in history.kept]


class OutputHistory:
    """The last computed input (B, C, ...) and output (B, C or more, ...) of one track in one guidance context.

    Channels of the output beyond those of the input, such as a predicted variance, are reused unchanged. With a
    `shard`, both hold its frames only, but measurements cover the whole video.
    """

    def __init__(self, store: TensorStore, shard: Shard = WHOLE) -> None:
        self._store = store
        self._shard = shard
        self._kept: tuple[KeptTensor, KeptTensor] | None = None

    def store(self, latents: Tensor, output: Tensor) -> None:
        """Keep copies of a computed step's input and output, which are small: loops may change these in place."""
        self._kept = self._store.keep(latents.clone(), exact=True), self._store.keep(output.clone(), exact=True)

    def measure(self, latents: Tensor, output: Tensor, frames: FrameSet) -> list[Tensor]:
        """Return the output's mean magnitude, and the mean changes of input and output if earlier ones are kept.

        Only `frames`, in dimension 2, are measured; without any, the result is empty.
        """
        if frames.is_empty:
            return []

        def generated(tensor: Tensor) -> Tensor:
            paired = tensor[:, : latents.shape[1]]
            return paired if frames.videos is None else frames.take(paired.transpose(1, 2))

        frames = frames.part(self._shard.frames)
        current = [generated(tensor) for tensor in (latents, output)]
        sums = [magnitude(current[1])]
        if self._kept is not None:
            before = [generated(kept.fetch()) for kept in self._kept]
            sums += [absolute_change(a, b) for a, b in zip(before, current, strict=True)]
        return shared_means(sums, current[1].numel(), self._shard)

    def add(self, latents: Tensor) -> Tensor:
        """Return the output of a reused step: its input plus the last output - input, in the output's dtype."""
        last_latents, last_output = (kept.fetch() for kept in self._kept)
        paired, others = last_output.split([latents.shape[1], last_output.shape[1] - latents.shape[1]], dim=1)
        moved = latents.to(paired.dtype) + (paired - last_latents.to(paired.dtype))
        return torch.cat([moved, others], dim=1)

    @property
    def kept(self) -> list[KeptTensor]:
        """The tensors held now."""
        return list(self._kept or ())
