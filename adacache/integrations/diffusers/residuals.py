"""How to see, from outside, what the self-attention of a diffusers block adds to its hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Take = Callable[[Callable[[], Tensor]], object]  # called with a function that computes the residual


class AttentionResidual(Protocol):
    """A place in a block where the gated residual of its self-attention can be seen."""

    def watch(self, block: nn.Module, take: Take) -> Sequence[RemovableHandle]:
        """Call `take` in every forward pass of `block` until the handles are removed."""
        ...


@dataclass(frozen=True)
class GatedByTable:
    """The residual is attention * (row of the block's own table + row of the time's embedding).

    The difference of the hidden states before and after would lose digits in bfloat16.

    Attributes:
        argument, position: name and position of the time's embedding among the block's arguments. Its shape is
            (B, 6 C) or (B, 6, C), with an embedding for every token (B, N, 6 C) or (B, N, 6, C), and with one for every
            frame (B, 1, T, 6 C). Some tables have more than 6 rows.
        row: index of the gate's row.
        attention: name of the attention module.
        table: name of the parameter (6, C) or (1, 6, C).
    """

    argument: str
    position: int
    row: int = 2
    attention: str = "attn1"
    table: str = "scale_shift_table"

    def watch(self, block: nn.Module, take: Take) -> Sequence[RemovableHandle]:
        embedding: list[Tensor] = []

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            embedding[:] = [kwargs[self.argument] if self.argument in kwargs else args[self.position]]

        def look(_: nn.Module, args: tuple[Any, ...], attention: Tensor) -> None:
            take(lambda: attention * self._gate(getattr(block, self.table), embedding.pop(), attention.shape[1]))

        attention = getattr(block, self.attention)
        return [block.register_forward_pre_hook(note, with_kwargs=True), attention.register_forward_hook(look)]

    def _gate(self, table: Tensor, embedding: Tensor, num_tokens: int) -> Tensor:
        rows, width = table.shape[-2:]
        of_time = embedding.reshape(len(embedding), -1, rows, width)[:, :, self.row]  # (B, 1, T or N, C)
        if 1 < of_time.shape[1] < num_tokens:
            of_time = of_time.repeat_interleave(num_tokens // of_time.shape[1], 1)
        return table.reshape(rows, width)[self.row] + of_time


@dataclass(frozen=True)
class GatedByNorm:
    """The residual is attention * gate, where the norm before the attention also returns the gate, (B, C) or (B, 1, C).

    Attributes:
        index: index of the gate among what the norm returns.
        of: number of the parts, if the norm returns them as one tensor (B, of * C); 0 otherwise.
    """

    index: int
    of: int = 0
    norm: str = "norm1"
    attention: str = "attn1"

    def watch(self, block: nn.Module, take: Take) -> Sequence[RemovableHandle]:
        gate: list[Tensor] = []

        def note(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            gate[:] = [(output.chunk(self.of, dim=-1) if self.of else output)[self.index]]

        def look(_: nn.Module, args: tuple[Any, ...], attention: Tensor | tuple[Tensor, ...]) -> None:
            found = gate.pop()
            own = attention[0] if isinstance(attention, tuple) else attention  # not the text's part
            take(lambda: own * (found[:, None] if found.ndim == 2 else found))

        norm, attention = block.get_submodule(self.norm), block.get_submodule(self.attention)
        return [norm.register_forward_hook(note), attention.register_forward_hook(look)]


@dataclass(frozen=True)
class OutputOf:
    """The residual is what a module of the block returns."""

    module: str

    def watch(self, block: nn.Module, take: Take) -> Sequence[RemovableHandle]:
        def look(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            take(lambda: output)

        return [getattr(block, self.module).register_forward_hook(look)]
