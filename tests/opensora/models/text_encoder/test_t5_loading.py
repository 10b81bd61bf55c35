"""Streamed and quantized text encoders: what they give, and what they leave behind."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections import namedtuple

import pytest
import torch

from opensora.device import release_memory
from opensora.errors import ConfigError
from opensora.models.text_encoder.t5 import T5Encoder


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("layout", ["published_format", "safetensors_format"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streaming_changes_no_bit_and_leaves_no_file(layout, dtype, sentences, temporary, request):
    pytest.importorskip("accelerate")
    folder = request.getfixturevalue(layout)
    encoded = T5Encoder(folder, 24, dtype=dtype).encode(sentences[:1])
    streamed = T5Encoder(folder, 24, dtype=dtype, stream=True)
    blocks = streamed.model.encoder.block.parameters()
    assert {parameter.device.type for parameter in blocks} == {"meta"}
    for _ in range(2):
        again = streamed.encode(sentences[:1])
        assert torch.equal(again["y"], encoded["y"])
        assert again["y"].device.type == "cpu"
    assert {parameter.device.type for parameter in streamed.model.encoder.block.parameters()} == {"meta"}
    # Only weights that are not safetensors are copied.
    assert any(temporary.glob("*/*.safetensors")) == (layout == "published_format")
    del streamed, blocks
    gc.collect()
    assert not list(temporary.iterdir())


def test_streaming_needs_room_for_a_copy(published_format, temporary, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(ConfigError, match="set TMPDIR to a folder with room"):
        T5Encoder(published_format, stream=True)
    assert not list(temporary.iterdir())


def test_a_failed_load_leaves_no_file(published_format, tmp_path, temporary):
    folder = shutil.copytree(published_format, tmp_path / "t5")
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"not weights")
    with pytest.raises(ValueError):
        T5Encoder(folder, stream=True)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantized_weights_are_bytes_and_give_nearly_the_same(published_format, sentences, dtype):
    pytest.importorskip("torchao")
    encoded = T5Encoder(published_format, 24).encode(sentences)
    encoder = T5Encoder(published_format, 24, dtype=dtype, quantize="int8")
    linears = [module for module in encoder.model.modules() if isinstance(module, torch.nn.Linear)]
    assert {linear.weight.qdata.dtype for linear in linears} == {torch.int8}
    quantized = encoder.encode(sentences)
    assert quantized["y"].dtype == dtype
    real = encoded["mask"] != 0
    similarity = torch.cosine_similarity(quantized["y"][:, 0][real].float(), encoded["y"][:, 0][real], dim=-1)
    assert 0.99 < similarity.min() < 1


def test_memory_is_released_anywhere():
    release_memory("cpu")
