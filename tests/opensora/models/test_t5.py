"""The text encoder, on a checkpoint in the published format and on one in today's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from opensora.models.layers.embeddings import CaptionEmbedder
from opensora.models.text_encoder.t5 import GuidedTextEncoder, T5Encoder

SENTENCES = ["a red circle moves to the right", "a cat sits on a mat", "the quick brown fox jumps over the lazy dog"]


@pytest.fixture(scope="module")
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


def test_published_format_loads_and_encodes(published_format):
    import sentencepiece

    encoder = T5Encoder(published_format, model_max_length=24)
    encoded = encoder.encode(SENTENCES[:2])
    assert encoded["y"].shape == (2, 1, 24, 32)
    assert encoded["y"].dtype == torch.float32
    # Sentence pieces plus the end mark, then padding.
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(published_format / "spiece.model"))
    lengths = [min(24, len(pieces.encode(sentence)) + 1) for sentence in SENTENCES[:2]]
    assert encoded["mask"].sum(1).tolist() == lengths


def test_long_prompts_are_cut(published_format):
    encoded = T5Encoder(published_format, model_max_length=5).encode([SENTENCES[0]])
    assert encoded["mask"].tolist() == [[1, 1, 1, 1, 1]]


def test_padding_does_not_change_the_features_of_a_prompt(published_format):
    short, long = (T5Encoder(published_format, model_max_length=n).encode([SENTENCES[1]]) for n in (24, 40))
    count = int(short["mask"].sum())
    assert torch.allclose(short["y"][:, :, :count], long["y"][:, :, :count], atol=1e-5)


def test_guided_encoder_gives_the_video_models_dtype_and_empty_captions(published_format):
    embedder = CaptionEmbedder(32, 8, 24).to(torch.bfloat16)
    null = embedder.y_embedding
    guided = GuidedTextEncoder(T5Encoder(published_format, model_max_length=24), embedder)
    assert guided.encode(SENTENCES[:1])["y"].dtype == torch.bfloat16
    assert guided.null(3).shape == (3, 1, 24, 32)
    assert torch.equal(guided.null(3)[2, 0], null)


def test_a_damaged_checkpoint_is_refused_in_one_sentence(published_format, tmp_path):
    import shutil

    from opensora.models.checkpoint import CheckpointError

    folder = shutil.copytree(published_format, tmp_path / "t5")
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="the text encoder in .* cannot be loaded") as caught:
        T5Encoder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"d_ff": 48}, {"num_layers": 3}])
def test_weights_that_do_not_fit_are_refused_instead_of_replaced_by_random_ones(published_format, tmp_path, change):
    import shutil

    from opensora.models.checkpoint import CheckpointError

    folder = shutil.copytree(published_format, tmp_path / "t5")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match="tensors are missing or of another shape"):
        T5Encoder(folder)
