"""A tokenizer in the folder beside the text encoder's, as diffusers' pipelines are laid out."""

from __future__ import annotations

import shutil

import pytest
import torch

from opensora.config.schema import TextEncoderConfig
from opensora.models.text_encoder.embedding_cache import encoder_key
from opensora.models.text_encoder.t5 import T5Encoder
from opensora.weights.layout import gaps, tokenizer_folder
from support import tiny_latte


@pytest.fixture
def folder(tmp_path):
    return tiny_latte.write_latte(tmp_path) / "text_encoder"


def test_it_is_found_and_read(folder, tmp_path):
    assert tokenizer_folder(folder) == tmp_path / "tokenizer" and gaps(folder, "text_encoder") == []
    beside = T5Encoder(str(folder), model_max_length=12).encode(tiny_latte.PROMPTS)
    shutil.copytree(folder, tmp_path / "together")
    shutil.copytree(tmp_path / "tokenizer", tmp_path / "together", dirs_exist_ok=True)
    together = T5Encoder(str(tmp_path / "together"), model_max_length=12).encode(tiny_latte.PROMPTS)
    assert torch.equal(beside["y"], together["y"]) and torch.equal(beside["mask"], together["mask"])


def test_encoded_prompts_depend_on_it(folder, tmp_path):
    text = TextEncoderConfig(from_pretrained=str(folder))
    before = encoder_key(text, "cpu")
    assert encoder_key(text, "cpu") == before
    file = tmp_path / "tokenizer/tokenizer.json"
    file.write_text(file.read_text().replace("circle", "cycle"))
    assert encoder_key(text, "cpu") != before


def test_without_it_the_folder_lacks_it(folder, tmp_path):
    shutil.rmtree(tmp_path / "tokenizer")
    assert gaps(folder, "text_encoder") == ["tokenizer.json or spiece.model"]
