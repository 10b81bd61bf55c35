"""The text encoder, on a checkpoint in the published format and on one in today's."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
from pathlib import Path

import pytest
import torch

from opensora.errors import WeightsError
from opensora.models.layers.embeddings import CaptionEmbedder
from opensora.models.text_encoder.encoded_text import GuidedTextEncoder
from opensora.models.text_encoder.t5 import T5Encoder


def test_published_format_loads_and_encodes(published_format, sentences):
    import sentencepiece

    encoder = T5Encoder(published_format, model_max_length=24)
    encoded = encoder.encode(sentences[:2])
    assert encoded["y"].shape == (2, 1, 24, 32)
    assert encoded["y"].dtype == torch.float32
    # Sentence pieces plus the end mark, then padding.
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(published_format / "spiece.model"))
    lengths = [min(24, len(pieces.encode(sentence)) + 1) for sentence in sentences[:2]]
    assert encoded["mask"].sum(1).tolist() == lengths


def test_long_prompts_are_cut(published_format, sentences):
    encoded = T5Encoder(published_format, model_max_length=5).encode([sentences[0]])
    assert encoded["mask"].tolist() == [[1, 1, 1, 1, 1]]


def test_padding_does_not_change_the_features_of_a_prompt(published_format, sentences):
    short, long = (T5Encoder(published_format, model_max_length=n).encode([sentences[1]]) for n in (24, 40))
    count = int(short["mask"].sum())
    assert torch.allclose(short["y"][:, :, :count], long["y"][:, :, :count], atol=1e-5)


def test_guided_encoder_gives_the_video_models_dtype_and_empty_captions(published_format, sentences):
    embedder = CaptionEmbedder(32, 8, 24).to(torch.bfloat16)
    null = embedder.y_embedding
    guided = GuidedTextEncoder(T5Encoder(published_format, model_max_length=24), embedder)
    assert guided.encode(sentences[:1])["y"].dtype == torch.bfloat16
    assert guided.null(3).shape == (3, 1, 24, 32)
    assert torch.equal(guided.null(3)[2, 0], null)


def test_a_damaged_checkpoint_is_refused_in_one_sentence(published_format, tmp_path):
    folder = shutil.copytree(published_format, tmp_path / "t5")
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"not weights")
    with pytest.raises(WeightsError, match="the text encoder in .* cannot be loaded") as caught:
        T5Encoder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"d_ff": 48}, {"num_layers": 3}])
def test_weights_that_do_not_fit_are_refused_instead_of_replaced_by_random_ones(published_format, tmp_path, change):
    folder = shutil.copytree(published_format, tmp_path / "t5")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(WeightsError, match="tensors are missing or of another shape"):
        T5Encoder(folder)


def test_damaged_safetensors_are_refused_in_one_sentence(safetensors_format, tmp_path):
    folder = shutil.copytree(safetensors_format, tmp_path / "t5")
    shard = next(folder.glob("model-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be loaded") as caught:
        T5Encoder(folder)
    assert "\n" not in str(caught.value)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_code_in_weight_files_is_not_run(published_format, tmp_path):
    folder = shutil.copytree(published_format, tmp_path / "t5")
    torch.save({"shared.weight": Touch(tmp_path / "ran")}, folder / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(WeightsError):
        T5Encoder(folder)
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(pickle.dumps(Touch(tmp_path / "ran"), protocol=2))
    with pytest.raises(WeightsError):
        T5Encoder(folder)
    assert not (tmp_path / "ran").exists()


def test_shards_of_safetensors_give_the_same(published_format, safetensors_format, sentences):
    assert len(list(safetensors_format.glob("model-*.safetensors"))) > 1
    old, new = (
        T5Encoder(folder, model_max_length=24).encode(sentences) for folder in (published_format, safetensors_format)
    )
    assert torch.equal(old["y"], new["y"])
    assert torch.equal(old["mask"], new["mask"])


def test_a_folder_is_loaded_without_a_network(safetensors_format, monkeypatch):
    import huggingface_hub.constants

    asked = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address) or [])
    T5Encoder(safetensors_format)
    assert not asked
