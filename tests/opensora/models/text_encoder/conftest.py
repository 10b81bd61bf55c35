"""A tiny T5 in the layouts that checkpoints come in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

SENTENCES = ["a red circle moves to the right", "a cat sits on a mat", "the quick brown fox jumps over the lazy dog"]


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """What the tokenizer of the tiny T5 was made from."""
    return SENTENCES


@pytest.fixture(scope="session")
def published_format(tmp_path_factory) -> Path:
    """A tiny T5 laid out as DeepFloyd/t5-v1_1-xxl is: spiece.model and PyTorch weights in shards."""
    import sentencepiece
    from transformers import T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5")
    (folder / "corpus.txt").write_text("\n".join(SENTENCES * 50))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "spiece"),
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=160, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    config.save_pretrained(folder)
    weights = T5EncoderModel(config).state_dict()
    shards = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(weights)}
    for shard in set(shards.values()):
        torch.save({name: weights[name] for name in weights if shards[name] == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "eos_token": "</s>", "pad_token": "<pad>"})
    )
    return folder


@pytest.fixture(scope="session")
def safetensors_format(published_format, tmp_path_factory) -> Path:
    """The same weights and tokenizer as today's transformers stores them, in several files."""
    from transformers import AutoTokenizer, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5_safetensors")
    T5EncoderModel.from_pretrained(published_format).save_pretrained(folder, max_shard_size="50KB")
    AutoTokenizer.from_pretrained(published_format).save_pretrained(folder)
    return folder
