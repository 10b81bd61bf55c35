"""Attention layers of STDiT3 on PyTorch's native scaled dot-product attention.

Shapes: B batch (whatever is folded into it), N tokens, L text tokens, C channels = heads * D.
Source: Open-Sora v1.2, `opensora/models/layers/blocks.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opensora.device import triton_problem

try:
    from opensora.models.layers import temporal_kernel
except ImportError:  # no triton, as on most machines without a GPU
    temporal_kernel = None

CAN_FUSE = temporal_kernel is not None and triton_problem() is None
NORM_EPS = 1e-6


class RotaryEmbedding(nn.Module):
    """Rotary position embedding over neighboring channel pairs (0, 1), (2, 3), ...; positions count from 0."""

    def __init__(self, dim: int, theta: float = 10_000.0):
        super().__init__()
        exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
        self.freqs = nn.Parameter(theta**-exponents, requires_grad=False)

    def tables(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every angle, each (length, D / 2) float32."""
        positions = torch.arange(length, device=self.freqs.device, dtype=torch.float32)
        angles = torch.outer(positions, self.freqs.float())
        return angles.cos(), angles.sin()


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the channel pairs of `x` (..., N, D) by the angles of `tables`."""
    cos, sin = (table.to(x.dtype) for table in tables)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of PyTorch, (B, heads, N, D).

    Without queries, as on a process that holds no frames, the result is empty: CUDA kernels refuse an empty batch.
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask) if q.numel() else torch.empty_like(q)


class SelfAttention(nn.Module):
    """Multi-head self-attention, (B, N, C) -> (B, N, C); `qk_norm` normalizes queries and keys.

    Attributes:
        fuse: use the fused kernel for attention along time where it can; False always uses PyTorch's layers.
    """

    def __init__(self, dim: int, num_heads: int, qk_norm: bool):
        super().__init__()
        self.num_heads = num_heads
        self.fuse = True
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.RMSNorm(dim // num_heads, eps=NORM_EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(dim // num_heads, eps=NORM_EPS) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Attend over N; `rope` holds the tables of the rotary embedding where the axis is time."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, heads, D)
        if rope is not None and self._is_fused(qkv):
            norms = (self.q_norm.weight, self.k_norm.weight)
            return self.proj(temporal_kernel.temporal_attention(qkv, *norms, *rope, self.q_norm.eps))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, D)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        x = attend(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))

    def _is_fused(self, qkv: Tensor) -> bool:
        """Whether the fused kernel replaces everything between the linear layers: on a GPU, outside of training."""
        _, frames, _, _, size = qkv.shape
        return (
            self.fuse
            and CAN_FUSE
            and qkv.is_cuda
            and qkv.dtype in temporal_kernel.DTYPES
            and frames <= temporal_kernel.MAX_FRAMES
            and size <= temporal_kernel.MAX_HEAD_SIZE
            and isinstance(self.q_norm, nn.RMSNorm)
            and not qkv.requires_grad
            and qkv.numel() > 0
        )


class CrossAttention(nn.Module):
    """Tokens attend to the text of their own sample: (B, N, C) and (B, L, C) -> (B, N, C)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(dim, dim)
        self.kv_linear = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor | None) -> Tensor:
        """`text_mask` (B, L) is True at real tokens; None means that all are real."""
        q = self.q_linear(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, D)
        kv = self.kv_linear(text).unflatten(-1, (2, self.num_heads, -1))  # (B, L, 2, heads, D)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, L, D)
        mask = None if text_mask is None else text_mask[:, None, None]  # (B, 1, 1, L)
        x = attend(q, k, v, mask)
        return self.proj(x.transpose(1, 2).flatten(2))
