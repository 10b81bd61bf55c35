"""Count the operations of each step of a run as they happen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


# PyTorch's own table has only the attention kernels of GPUs.
_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


@contextmanager
def counted_flops(model: nn.Module) -> Iterator[list[int]]:
    """Yield a list to which the operations (two per multiply-add) of every call of the model are appended.

    Matrix products, convolutions and attention count; elementwise operations do not. Compiled modules run uncompiled
    within the block, as compiled kernels cannot be counted.
    """
    counts: list[int] = []
    before = 0

    def begin(*_: Any) -> None:
        nonlocal before
        before = counter.get_total_flops()

    def end(*_: Any) -> None:
        counts.append(counter.get_total_flops() - before)

    hooks = model.register_forward_pre_hook(begin), model.register_forward_hook(end)
    try:
        with (
            torch.compiler.set_stance("force_eager"),
            FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter,
        ):
            yield counts
    finally:
        for hook in hooks:
            hook.remove()
