"""Attention along time in one kernel: equal to the layers it stands for, and used only where it can be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from opensora.files import REPO_ROOT
from opensora.models.layers import attention
from opensora.models.layers.attention import SelfAttention


def test_the_kernel_equals_the_layers_in_tritons_interpreter():
    pytest.importorskip("triton", reason="triton has no build for this platform")
    paths = os.pathsep.join([str(REPO_ROOT), str(REPO_ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, REPO_ROOT / "tests/support/run_temporal_kernel.py"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("frames") == 8


class OnGpu(torch.Tensor):
    """A tensor of the CPU that says it is on a GPU."""

    is_cuda = True


@pytest.mark.skipif(not attention.CAN_FUSE, reason="triton or what it builds with is not there")
def test_what_the_kernel_cannot_do_goes_through_the_layers(monkeypatch):
    def fused(
        frames: int = 15, size: int = 72, dtype: torch.dtype = torch.bfloat16, qk_norm: bool = True, **changes
    ) -> bool:
        layer = SelfAttention(2 * size, 2, qk_norm)
        layer.fuse = changes.get("fuse", True)
        qkv = torch.zeros(changes.get("places", 3), frames, 3, 2, size, dtype=dtype).as_subclass(
            changes.get("kind", OnGpu)
        )
        return layer._is_fused(qkv.requires_grad_(changes.get("trained", False)))

    assert fused()
    assert fused(frames=64, size=128, dtype=torch.float16)
    assert not fused(frames=65)
    assert not fused(size=130)
    assert not fused(dtype=torch.float32)
    assert not fused(qk_norm=False)
    assert not fused(fuse=False)
    assert not fused(places=0)
    assert not fused(trained=True)
    assert not fused(kind=torch.Tensor)
    monkeypatch.setattr(attention, "CAN_FUSE", False)  # there is no compiler
    assert not fused()
