"""Measure the machine's ceilings, and single kernels at the sizes of STDiT3-XL/2."""

from __future__ import annotations

import math
import platform
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.gpu.report import Check, relative_error
from bench.machine import describe_machine
from opensora.environment import installed_version
from opensora.models.layers.attention import NORM_EPS, SelfAttention
from opensora.models.layers.embeddings import PatchEmbed3D

HEADS, HEAD_SIZE, WIDTH = 16, 72, 1152
TOKENS = {"480p": 1590, "720p": 3600}  # of a frame
FRAMES, ROWS, TEXT = 15, 2, 300  # latent frames of two seconds; guidance; tokens of a caption
PACKAGES = ("torch", "triton", "transformers", "diffusers", "mmengine", "torchao")
BACKENDS = {
    "default": None,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_MATH_BYTES = 6e9  # of scores that the plain backend may hold
TFLOP, TB = 1e9, 1e9  # per millisecond


def check_machine(check: Check) -> None:
    """Report versions, the two ceilings (matrix products and copies), and the linear layers of the model."""
    machine = describe_machine()
    check.note("machine", f"{machine['gpu'] or machine['cpu']}, commit {machine['commit']}", **machine)
    check.note("versions", ", ".join([f"python {platform.python_version()}", *filter(None, map(_version, PACKAGES))]))
    n = 256 if check.tiny else 8192
    a, b = check.randn(n, n), check.randn(n, n)
    check.figure("bf16 matrix product", 2 * n**3 / check.milliseconds(lambda: a @ b) / TFLOP, "TFLOP/s")
    source, target = check.randn(4 * n * n), check.randn(4 * n * n)
    check.figure("copy", 2 * source.nbytes / check.milliseconds(lambda: target.copy_(source)) / TB, "TB/s")
    rows = 64 if check.tiny else ROWS * FRAMES * TOKENS["720p"]
    for inner, outer in ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)):
        x, weight, bias = check.randn(rows, inner), check.randn(outer, inner), check.randn(outer)
        plain = check.milliseconds(lambda: F.linear(x, weight, bias))  # noqa: B023
        flop = 2 * rows * inner * outer
        check.figure(f"linear {rows} x {inner} -> {outer}", flop / plain / TFLOP, "TFLOP/s")


def check_attention(check: Check) -> None:
    """Time PyTorch's attention backends at every site of the model, and the fused kernel of the temporal blocks."""
    for resolution, tokens in TOKENS.items():
        _backends(check, f"spatial {resolution}", ROWS * FRAMES, tokens, tokens)
        _backends(check, f"temporal {resolution}", ROWS * tokens, FRAMES, FRAMES)
    _backends(check, "temporal 720p 8 s", ROWS * TOKENS["720p"], 4 * FRAMES, 4 * FRAMES)
    _backends(check, "cross 720p", ROWS, FRAMES * TOKENS["720p"], TEXT)
    _backends(check, "cross 720p masked", ROWS, FRAMES * TOKENS["720p"], TEXT, masked=True)
    _backends(check, "temporal, batch above 65535", 72_000, FRAMES, FRAMES)
    _backends(check, "VAE middle 720p", 4, 14_400, 14_400, heads=1, size=512)
    for frames in (FRAMES, 2 * FRAMES, 4 * FRAMES):
        _temporal_layer(check, frames)


def _backends(
    check: Check,
    name: str,
    batch: int,
    queries: int,
    keys: int,
    heads: int = HEADS,
    size: int = HEAD_SIZE,
    masked: bool = False,
) -> None:
    if check.tiny:
        batch, queries, keys = min(batch, 2), min(queries, 16), min(keys, 16)
    q, k, v = (check.randn(batch, length, heads, size).transpose(1, 2) for length in (queries, keys, keys))
    mask = None
    if masked:
        mask = torch.ones(batch, 1, 1, keys, dtype=torch.bool, device=check.device)
        mask[0, ..., keys // 3 :] = False
    part = slice(0, 1)
    own_mask = None if mask is None else mask[part]
    expected = F.scaled_dot_product_attention(q[part, :, :128].float(), k[part].float(), v[part].float(), own_mask)
    for label, backend in BACKENDS.items():
        if label == "math" and batch * heads * queries * keys * 4 > _MATH_BYTES:
            continue
        with nullcontext() if backend is None else sdpa_kernel(backend):
            try:
                out = F.scaled_dot_product_attention(q, k, v, mask)
                took = check.milliseconds(lambda: F.scaled_dot_product_attention(q, k, v, mask), 5, 1)
            except RuntimeError as error:
                check.note(f"{name}, {label}", f"refused: {str(error).splitlines()[0][:90]}")
                continue
        rate = 4 * batch * heads * queries * keys * size / took / TFLOP
        check.figure(f"{name}, {label}", took, "ms", tflops=rate, error=relative_error(out[part, :, :128], expected))


@torch.no_grad()
def _temporal_layer(check: Check, frames: int) -> None:
    """Time the self-attention of a temporal block at 720p, including its linear layers."""
    places = 1 if check.tiny else ROWS * TOKENS["720p"]
    layer = SelfAttention(WIDTH, HEADS, qk_norm=True).to(check.device, torch.bfloat16)
    x = check.randn(places, frames, WIDTH)
    angles = torch.outer(torch.arange(frames), torch.rand(HEAD_SIZE // 2)).to(check.device)
    rope = (angles.cos(), angles.sin())
    linear = check.milliseconds(lambda: layer.proj(layer.qkv(x)[..., :WIDTH].contiguous()))
    fused = check.milliseconds(lambda: layer(x, rope))
    layer.fuse = False
    plain = check.milliseconds(lambda: layer(x, rope))
    what = f"temporal layer 720p, {frames} frames"
    check.figure(f"{what}: PyTorch's attention", plain, "ms", one_kernel=fused, linear_layers_alone=linear)


@torch.no_grad()
def check_pointwise(check: Check) -> None:
    """Time kernels that are bound by memory."""
    tokens = 32 if check.tiny else TOKENS["720p"]
    x, y = check.randn(ROWS, FRAMES, tokens, WIDTH), check.randn(ROWS, FRAMES, tokens, WIDTH)
    check.figure("residual add", check.milliseconds(lambda: x + y), "ms")
    check.figure("layer norm", check.milliseconds(lambda: F.layer_norm(x, (WIDTH,))), "ms")
    q = check.randn(ROWS * FRAMES, tokens, 3, HEADS, HEAD_SIZE)[:, :, 0].transpose(1, 2)
    norm = torch.nn.RMSNorm(HEAD_SIZE, eps=NORM_EPS).to(check.device, torch.bfloat16)
    check.figure("norm of queries", check.milliseconds(lambda: norm(q)), "ms")
    embedder = PatchEmbed3D((1, 2, 2), 4, WIDTH).to(check.device, torch.bfloat16)
    side = 2 * math.isqrt(tokens)
    latents = check.randn(ROWS, 4, FRAMES, side, side)
    check.figure("patch embedding", check.milliseconds(lambda: embedder(latents)), "ms")


def _version(package: str) -> str | None:
    number = installed_version(package)
    return None if number is None else f"{package} {number}"
