"""Operations of each step of a run, counted as they happen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from opensora.models.stdit.stdit3 import EAGER, STDiT3


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


# PyTorch's own table has the attention kernels of GPUs alone.
_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


@contextmanager
def counted_flops(model: nn.Module) -> Iterator[list[int]]:
    """A list that gets the operations (two per multiply-add) of every call of the model.

    Matrix products, convolutions and attention count; what is done element by element does not. Nothing is compiled
    meanwhile: compiled kernels cannot be counted.
    """
    counts: list[int] = []
    # Blocks of models of diffusers are never compiled here.
    blocks = (*model.spatial_blocks, *model.temporal_blocks) if isinstance(model, STDiT3) else ()
    compiled = [block.functions for block in blocks]
    forward = model.forward

    def counting(*args: Any, **kwargs: Any) -> torch.Tensor:
        with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
            output = forward(*args, **kwargs)
        counts.append(counter.get_total_flops())
        return output

    for block in blocks:
        block.functions = EAGER
    model.forward = counting
    try:
        yield counts
    finally:
        del model.forward
        for block, functions in zip(blocks, compiled, strict=True):
            block.functions = functions
