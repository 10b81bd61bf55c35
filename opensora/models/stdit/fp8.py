"""Linear layers in 8 bits, by torchao."""

from __future__ import annotations

from torch import nn


def multiply_in_fp8(blocks: nn.Module) -> None:
    """Let the linear layers of ``blocks`` multiply in float8, with a scale for each row of inputs and weights.

    Weights are rounded now, and take half of bfloat16's memory; inputs are rounded in every call, which is quick only
    where the blocks are compiled. It needs bfloat16 and a GPU of compute capability 8.9 or above.

    Source: torchao, ``Float8DynamicActivationFloat8WeightConfig``.
    """
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    quantize_(blocks, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))
