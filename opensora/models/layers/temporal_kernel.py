"""Attention along time in one Triton kernel: norms of queries and keys, rotary embedding, softmax attention.

A temporal block attends over few frames at very many places, so its attention is bound by memory traffic, not by
arithmetic. The plain layers read and write the queries and keys six times each; this kernel reads the linear layer's
output once and writes the result once. Importing this module needs triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_FRAMES = 64
MAX_HEAD_SIZE = 128
DTYPES = (torch.bfloat16, torch.float16)  # float32 would be multiplied in TF32
WARPS = 4  # that share one head at one place
_SMALLEST_TILE = 16  # smallest side of a matrix product


@triton.jit
def _normalize_and_rotate(
    x, weight, cos, sin, eps, size: tl.constexpr, frames_tile: tl.constexpr, size_tile: tl.constexpr
):
    """Normalize a tile (frames, channels) in float32 and rotate its channel pairs; return even and odd channels."""
    x = x.to(tl.float32)
    x = x * tl.rsqrt(tl.sum(x * x, axis=1) / size + eps)[:, None] * weight[None, :]
    even, odd = tl.split(tl.reshape(x, (frames_tile, size_tile // 2, 2)))
    return even * cos - odd * sin, odd * cos + even * sin


@triton.jit
def _attend(
    qkv,
    q_weight,
    k_weight,
    cos,
    sin,
    out,
    frames,
    eps,
    scale,
    heads: tl.constexpr,
    size: tl.constexpr,
    frames_tile: tl.constexpr,
    size_tile: tl.constexpr,
):
    """Attend for one head at one place; tiles are zero-padded to powers of two."""
    place = tl.program_id(0).to(tl.int64)  # offsets of a long video pass 2^31
    head = tl.program_id(1)
    frame = tl.arange(0, frames_tile)
    channel = tl.arange(0, size_tile)
    pair = tl.arange(0, size_tile // 2)
    within = (frame[:, None] < frames) & (channel[None, :] < size)
    row = place * frames + frame[:, None]
    q_at = qkv + row * (3 * heads * size) + head * size + channel[None, :]
    q = tl.load(q_at, mask=within, other=0.0)
    k = tl.load(q_at + heads * size, mask=within, other=0.0)
    v = tl.load(q_at + 2 * heads * size, mask=within, other=0.0)

    angle_at = frame[:, None] * (size // 2) + pair[None, :]
    has_angle = (frame[:, None] < frames) & (pair[None, :] < size // 2)
    cosines = tl.load(cos + angle_at, mask=has_angle, other=0.0)
    sines = tl.load(sin + angle_at, mask=has_angle, other=0.0)
    q_scale = tl.load(q_weight + channel, mask=channel < size, other=0.0).to(tl.float32)
    k_scale = tl.load(k_weight + channel, mask=channel < size, other=0.0).to(tl.float32)
    q_even, q_odd = _normalize_and_rotate(q, q_scale, cosines, sines, eps, size, frames_tile, size_tile)
    k_even, k_odd = _normalize_and_rotate(k, k_scale, cosines, sines, eps, size, frames_tile, size_tile)

    # Even and odd channels need not be interleaved again: a dot product may sum them in any order.
    dtype = out.dtype.element_ty
    scores = tl.dot(q_even.to(dtype), tl.trans(k_even.to(dtype)), out_dtype=tl.float32)
    scores += tl.dot(q_odd.to(dtype), tl.trans(k_odd.to(dtype)), out_dtype=tl.float32)
    scores = tl.where(frame[None, :] < frames, scores * scale, -float("inf"))
    scores = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    weights = scores / tl.sum(scores, axis=1)[:, None]
    attended = tl.dot(weights.to(dtype), v.to(dtype), out_dtype=tl.float32)
    tl.store(out + row * (heads * size) + head * size + channel[None, :], attended.to(dtype), mask=within)


@torch.library.custom_op("opensora::temporal_attention", mutates_args=())
def temporal_attention(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """Compute what `SelfAttention` does between its two linear layers when it attends along time.

    Queries and keys stay in float32 through norm and rotation and are rounded once; the plain layers round after each.
    The results differ by up to 2e-2 of their norm in bfloat16 and 2e-3 in float16.

    Args:
        qkv: (P, T, 3, heads, D) in bfloat16 or float16, P places, T frames up to 64, D even and up to 128.
        q_weight, k_weight: weights of the norms, (D,).
        cos, sin: tables of the rotary embedding, (T, D / 2) float32.
        eps: epsilon of the norms.

    Returns:
        (P, T, heads * D).
    """
    places, frames, _, heads, size = qkv.shape
    out = qkv.new_empty(places, frames, heads * size)
    with torch.cuda.device_of(qkv):  # Triton launches on the current device, whichever the tensors are on
        _attend[(places, heads)](
            qkv.contiguous(),
            q_weight,
            k_weight,
            cos.contiguous(),
            sin.contiguous(),
            out,
            frames,
            eps,
            size**-0.5,
            heads=heads,
            size=size,
            frames_tile=max(_SMALLEST_TILE, triton.next_power_of_2(frames)),
            size_tile=max(2 * _SMALLEST_TILE, triton.next_power_of_2(size)),
            num_warps=WARPS,
        )
    return out


@temporal_attention.register_fake
def _(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    places, frames, _, heads, size = qkv.shape
    return qkv.new_empty(places, frames, heads * size)
