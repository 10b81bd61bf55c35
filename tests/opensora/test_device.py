"""The device of a run: what it must be able to do, and float32 that is float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from opensora.device import check_device, check_torch, exact_convolutions
from opensora.errors import ConfigError
from opensora.models.vae import VideoAutoencoderPipeline


def allowed_tf32() -> bool:
    cudnn = torch.backends.cudnn
    return cudnn.conv.fp32_precision != "ieee" if hasattr(cudnn, "conv") else cudnn.allow_tf32


@pytest.fixture
def turing(monkeypatch) -> None:
    """A machine with a GPU of 2018."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")


def test_a_gpu_older_than_bfloat16_is_refused(turing):
    with pytest.raises(
        ConfigError, match=r"'Tesla T4' \(compute capability 7.5\) is too old for bfloat16, .* --dtype fp16"
    ):
        check_device("cuda", torch.bfloat16)
    assert check_device("cuda", torch.float16).type == "cuda"
    assert check_device("cpu", torch.bfloat16).type == "cpu"


def test_a_pytorch_that_is_too_old_is_refused(monkeypatch):
    check_torch()
    for version, refused in (
        ("2.5.1+cu121", True),
        ("2.6.0", False),
        ("2.13.0+cpu", False),
        ("2.14.0.dev20260901", False),
    ):
        monkeypatch.setattr(torch, "__version__", version)
        if refused:
            with pytest.raises(ConfigError, match=r"PyTorch 2.5.1\+cu121 is too old; .* 2.6 or newer"):
                check_torch()
        else:
            check_torch()


def test_the_switch_is_put_back_whatever_happens():
    before = allowed_tf32()
    with pytest.raises(KeyError), exact_convolutions():
        assert not allowed_tf32()
        raise KeyError
    assert allowed_tf32() == before


@torch.no_grad()
def test_the_autoencoder_convolves_with_all_bits(golden):
    vae = VideoAutoencoderPipeline.from_pretrained(golden / "vae/model")
    seen: dict[str, list[bool]] = {}
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.register_forward_pre_hook(lambda *_, name=name: seen.setdefault(name, []).append(allowed_tf32()))
    before = allowed_tf32()
    latents = vae.encode(torch.zeros(1, 3, 17, 16, 16))
    vae.decode(latents, 17)
    assert len(seen) > 50
    assert not any(tf32 for calls in seen.values() for tf32 in calls)
    assert allowed_tf32() == before
