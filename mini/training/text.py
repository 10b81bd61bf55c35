"""The mini model's words: a tokenizer over its vocabulary and a small T5 encoder."""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from mini.world.captions import vocabulary

MAX_TOKENS = 32
WIDTH = 96
PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer with one token per word, an end mark, and one token for all words outside the vocabulary."""
    words = [PAD, EOS, UNKNOWN, *vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, words.index(EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=MAX_TOKENS,
    )


def build_text_encoder() -> T5EncoderModel:
    """Build a two-layer T5 encoder with random weights."""
    config = T5Config(
        vocab_size=len(vocabulary()) + 3,
        d_model=WIDTH,
        d_kv=24,
        d_ff=192,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return T5EncoderModel(config)


def tokenize(captions: list[str]) -> tuple[Tensor, Tensor]:
    """Return ids and mask (N, MAX_TOKENS) of captions."""
    tokens = build_tokenizer()(captions, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
    return tokens["input_ids"], tokens["attention_mask"]
