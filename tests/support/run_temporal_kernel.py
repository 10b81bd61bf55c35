"""Run as a program with TRITON_INTERPRET=1: the fused temporal attention on the CPU against PyTorch's layers.

Triton reads that variable when a kernel is defined, so that it has to be set for a process of its own.
"""

from __future__ import annotations

import torch

from opensora.models.layers import attention, temporal_kernel

LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3}  # the interpreter cannot multiply bfloat16
SIZES = ((1, 2, 72), (5, 1, 128), (17, 3, 36), (64, 1, 16))  # frames, heads, head size
PLACES = 3


def main() -> None:
    """Print the relative error of every case; an error above its limit ends the program.

    So does a kernel that is launched on the current device instead of its tensors' own.
    """
    torch.manual_seed(0)
    launched_on: list[torch.Tensor] = []
    device_of = torch.cuda.device_of
    torch.cuda.device_of = lambda tensor: launched_on.append(tensor) or device_of(tensor)
    for dtype, limit in LIMITS.items():
        for frames, heads, size in SIZES:
            layer = attention.SelfAttention(heads * size, heads, qk_norm=True)
            for norm in (layer.q_norm, layer.k_norm):
                torch.nn.init.normal_(norm.weight, 1.0, 0.3)
            x = torch.randn(PLACES, frames, heads * size)
            layer, x = layer.to(dtype), x.to(dtype)
            rope = attention.RotaryEmbedding(size).tables(frames)
            qkv = layer.qkv(x).unflatten(-1, (3, heads, -1))
            weights = (layer.q_norm.weight, layer.k_norm.weight)
            fused = temporal_kernel.temporal_attention(qkv, *weights, *rope, layer.q_norm.eps)

            q, k, v = qkv.float().permute(2, 0, 3, 1, 4).unbind(0)
            q, k = (attention.rotate(norm.float()(part), rope) for norm, part in ((layer.q_norm, q), (layer.k_norm, k)))
            expected = attention.attend(q, k, v).transpose(1, 2).flatten(2)
            error = ((fused.float() - expected).norm() / expected.norm()).item()
            print(f"{dtype} {frames} frames, {heads} heads of {size}: {error:.1e}")
            assert launched_on.pop().shape == qkv.shape
            assert fused.shape == expected.shape
            assert fused.dtype == dtype
            assert error <= limit


if __name__ == "__main__":
    with torch.no_grad():
        main()
