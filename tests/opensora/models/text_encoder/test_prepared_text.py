"""The text stage: what is encoded when, that it equals encoding directly, and that the encoder is gone after it."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import weakref
from pathlib import Path

import pytest
import torch

from opensora.cli import text_stage as prepared_text
from opensora.cli.text_stage import encode_captions
from opensora.config.loading import load_config
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError
from opensora.models.stdit.stdit3 import STDiT3
from opensora.models.text_encoder.embedding_cache import encoder_key
from opensora.models.text_encoder.encoded_text import GuidedTextEncoder
from opensora.models.text_encoder.t5 import T5Encoder
from opensora.schedulers.rf import RFLOW
from support import small_model

ROOT = Path(__file__).parents[4]
CAPTIONS = ["a red circle moving fast to the right", "a still star", "a red circle moving fast to the right"]


@pytest.fixture
def config(tmp_path) -> SampleConfig:
    config = load_config(small_model.SAMPLE, {"text_cache": str(tmp_path / "cache")})
    folder = shutil.copytree(ROOT / small_model.FOLDER / "text_encoder", tmp_path / "t5")
    text = dataclasses.replace(config.text_encoder, from_pretrained=str(folder))
    return dataclasses.replace(config, text_encoder=text)


@pytest.fixture
def built(monkeypatch) -> list[weakref.ref]:
    """The text encoders that are built, without keeping them."""
    models = []
    build = prepared_text.build_module

    def record(*args, **kwargs):
        encoder = build(*args, **kwargs)
        models.extend((weakref.ref(encoder), weakref.ref(encoder.model)))
        return encoder

    monkeypatch.setattr(prepared_text, "build_module", record)
    return models


def with_text(config: SampleConfig, **changes) -> SampleConfig:
    return dataclasses.replace(config, text_encoder=dataclasses.replace(config.text_encoder, **changes))


def encode(config: SampleConfig, captions=CAPTIONS):
    return encode_captions(config, captions, "cpu", progress=False)


def test_nothing_is_loaded_when_all_captions_are_kept(config, monkeypatch, caplog):
    first = encode(config).encode(CAPTIONS)
    monkeypatch.setattr(prepared_text, "build_module", lambda *_, **__: pytest.fail("the encoder was loaded"))
    with caplog.at_level(logging.INFO):
        second = encode(config).encode(CAPTIONS)
    assert "text: 2 captions, 2 from the cache" in caplog.messages
    assert torch.equal(first["y"], second["y"])
    assert torch.equal(first["mask"], second["mask"])


def test_only_what_is_missing_is_encoded(config, monkeypatch, caplog):
    encode(config, CAPTIONS[:1])
    seen = []
    encode_one = T5Encoder.encode
    monkeypatch.setattr(T5Encoder, "encode", lambda self, prompts: seen.append(prompts) or encode_one(self, prompts))
    with caplog.at_level(logging.INFO):
        encode(config)
    assert seen == [[CAPTIONS[1]]]
    assert "text: 2 captions, 1 from the cache" in caplog.messages


def test_the_encoder_is_gone_when_captions_are_encoded(config, built):
    encode(config)
    assert len(built) == 2
    assert all(reference() is None for reference in built)


def test_a_streamed_encoder_gives_the_same_and_is_gone_too(config, built):
    pytest.importorskip("accelerate")
    plain = encode(dataclasses.replace(config, text_cache="off")).encode(CAPTIONS)
    streamed = encode(with_text(config, stream=True))
    assert all(reference() is None for reference in built)
    assert torch.equal(streamed.encode(CAPTIONS)["y"], plain["y"])
    encode(config)  # finds what the streamed one made
    assert len(built) == 4


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_real_tokens_are_those_of_encoding_directly(config, dtype):
    config = with_text(config, dtype=dtype)
    prepared = encode(config).encode(CAPTIONS)
    text = config.text_encoder
    encoder = T5Encoder(text.from_pretrained, text.model_max_length, dtype=prepared["y"].dtype)
    assert prepared["y"].dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    for i, caption in enumerate(CAPTIONS):
        direct = encoder.encode([caption])
        assert torch.equal(prepared["mask"][i], direct["mask"][0])
        real = direct["mask"][0] != 0
        assert torch.equal(prepared["y"][i, 0, real], direct["y"][0, 0, real])
        assert not prepared["y"][i, 0, ~real].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 2])
def test_samples_are_bit_identical_to_encoding_directly(config, dtype, batch):
    text = config.text_encoder
    model = STDiT3.from_pretrained(ROOT / config.model.from_pretrained, dtype=dtype)
    encoder = T5Encoder(text.from_pretrained, text.model_max_length)

    class OneByOne:
        def encode(self, prompts):
            parts = [encoder.encode([prompt]) for prompt in prompts]
            return {name: torch.cat([part[name] for part in parts]) for name in ("y", "mask")}

    z = torch.randn(batch, 4, 5, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    latents = [
        RFLOW(num_sampling_steps=2).sample(
            model, GuidedTextEncoder(source, model.y_embedder), z, CAPTIONS[:batch], "cpu", progress=False
        )
        for source in (OneByOne(), encode(config))
    ]
    assert torch.equal(*latents)


def test_results_depend_neither_on_order_nor_on_company(config):
    config = dataclasses.replace(config, text_cache="off")
    together = encode(config)
    for caption in CAPTIONS:
        alone = encode(config, [caption]).encode([caption])
        assert torch.equal(together.encode([caption])["y"], alone["y"])
    turned = together.encode(CAPTIONS[1::-1])["y"]
    assert torch.equal(turned, encode(config, CAPTIONS[1::-1]).encode(CAPTIONS[:2])["y"].flip(0))


def test_a_caption_that_was_not_prepared_is_named(config):
    with pytest.raises(LookupError, match="'another' was not encoded"):
        encode(config).encode([CAPTIONS[0], "another"])


def test_off_keeps_nothing(config, tmp_path):
    encode(dataclasses.replace(config, text_cache="off"))
    assert not (tmp_path / "cache").exists()


def test_captions_encoded_before_an_interrupt_are_kept(config, monkeypatch, tmp_path):
    encode_one = T5Encoder.encode

    def interrupted(self, prompts):
        if prompts == [CAPTIONS[1]]:
            raise KeyboardInterrupt
        return encode_one(self, prompts)

    monkeypatch.setattr(T5Encoder, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(config)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_features_that_are_not_finite_are_refused_and_not_kept(config, monkeypatch, tmp_path):
    encode_one = T5Encoder.encode
    monkeypatch.setattr(
        T5Encoder,
        "encode",
        lambda self, prompts: {**encode_one(self, prompts), "y": torch.full((1, 1, 24, 96), torch.inf)},
    )
    with pytest.raises(ConfigError, match="NaN or infinity in fp32"):
        encode(config)
    assert not (tmp_path / "cache").exists()


def test_the_key_tells_encoders_apart(config):
    folder = Path(config.text_encoder.from_pretrained)

    def key(device: str = "cpu", **changes) -> str:
        return encoder_key(with_text(config, **changes).text_encoder, device)

    keys = [key(), key(dtype="bf16"), key(model_max_length=20), key(quantize="int8"), key("cuda")]
    assert key() == keys[0] == key(stream=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "truncation": None}, indent=1))
    keys.append(key())
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    keys.append(key())
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    keys.append(key())
    assert len(set(keys)) == len(keys)
