"""What the words of a caption are asked for, and that the text encoder learns to tell it."""

from __future__ import annotations

import numpy as np
import torch
from transformers import T5EncoderModel

from mini.training.text import MAX_TOKENS, build_tokenizer, tokenize
from mini.training.train_words import FACTS, UNASKED, train_words, word_facts
from mini.training.trainer import Recipe, Trainer
from mini.training.workers import Workers
from mini.world.captions import parse_caption, random_caption, random_scene
from opensora.files import REPO_ROOT

CAPTION = "a still red ring and a blue star moving fast up behind it on a drifting teal striped background"


def asked(word: str, fact: str):
    """Return the right answer of a word of CAPTION, or None where it is not asked for the fact."""
    position, names = CAPTION.split().index(word), list(FACTS)
    number = int(word_facts(parse_caption(CAPTION), CAPTION)[position, names.index(fact)])
    return None if number == UNASKED else FACTS[fact][number]


def test_every_word_of_a_phrase_is_asked_for_the_facts_of_its_figure_alone():
    assert (asked("ring", "color"), asked("still", "color"), asked("star", "color")) == ("red", "red", "blue")
    assert (asked("blue", "shape"), asked("moving", "direction"), asked("red", "motion")) == ("star", "up", "still")
    assert (asked("red", "rank"), asked("star", "rank"), asked("star", "order")) == ((0, 2), (1, 2), "behind")
    assert (asked("teal", "pattern"), asked("background", "drifting")) == ("striped", True)
    assert asked("teal", "color") is None
    assert asked("star", "background") is None


def test_tokens_are_words_and_no_caption_is_cut():
    rng = np.random.default_rng(0)
    captions = [random_caption(random_scene(rng), rng) for _ in range(300)]
    ids, mask = tokenize(captions)
    assert ids.shape == mask.shape == (300, MAX_TOKENS)
    assert mask.sum(1).tolist() == [len(caption.split()) + 1 for caption in captions]
    assert build_tokenizer().unk_token_id not in ids


def test_training_lowers_the_loss(tmp_path):
    recipe = Recipe(steps=12, adam_lr=3e-3, muon_lr=1e-2, warmup=2, checkpoint_every=12)
    train_words(Trainer("words", tmp_path, recipe, Workers()), count=100)
    losses = torch.load(tmp_path / "words.pt")["losses"]
    assert losses[-1] < 0.8 * losses[0]


def test_the_trained_encoder_tells_a_caption_from_its_swap():
    encoder = T5EncoderModel.from_pretrained(REPO_ROOT / "assets/opensora-mini/text_encoder", dtype=torch.float32)
    shapes = (("star", "ring"), ("ring", "star"))
    ids, mask = tokenize([f"a still red {one} and a blue {other} moving fast up" for one, other in shapes])
    with torch.no_grad():  # the word 'red' stands where it stood, and a bag of words is the same for both
        of_star, of_ring = encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 2]
    assert (of_star - of_ring).norm() > 0.2 * of_star.norm()
