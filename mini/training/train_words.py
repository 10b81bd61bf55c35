"""Stage 'words': teach the text encoder from captions alone which words belong together.

Trained with the transformer from nothing, the encoder stays a bag of words: a caption of two figures and its swap get
nearly the same features. Here every word of a phrase learns to tell all facts of what the phrase describes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import T5EncoderModel

from mini.training.text import MAX_TOKENS, WIDTH, build_text_encoder, tokenize
from mini.training.trainer import Recipe, Step, Trainer
from mini.world.captions import (
    BACKGROUNDS,
    COLORS,
    DIRECTIONS,
    MOTION_MIX,
    ORDERS,
    PANS,
    PATTERNS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    draw_scene,
    random_caption,
)

CAPTIONS = 20000
BATCH = 64  # captions per CPU process
RECIPE = Recipe(steps=400, adam_lr=3e-3, muon_lr=5e-3, ema=0.98, decay_from=0.5, checkpoint_every=200)
# What the words of a phrase are asked for -> its possible answers; a phrase is asked for some of them.
FACTS: dict[str, tuple] = {
    "color": tuple(COLORS),
    "shape": tuple(SHAPES),
    "motion": tuple(MOTION_MIX),
    "direction": (None, *DIRECTIONS),
    "size": ("", *SIZES),
    "place": ("", *PLACES),
    "order": (None, *ORDERS),
    "rank": tuple((i, count) for count in (1, 2, 3) for i in range(count)),  # of a figure among all figures
    "background": tuple(BACKGROUNDS),
    "pattern": tuple(PATTERNS),
    "drifting": (False, True),
    "pan": (None, *PANS),
}
UNASKED = -100


def word_facts(scene: Scene, caption: str) -> Tensor:
    """Return for every token of `caption`, which describes `scene`, the numbers of its answers.

    Returns:
        (MAX_TOKENS, facts) int64, UNASKED where a fact does not concern a word's phrase.
    """
    phrases: list[dict] = [
        {name: getattr(figure, name) for name in ("color", "shape", "motion", "direction", "size", "place")}
        | {"order": scene.order, "rank": (i, len(scene.figures)), "pan": scene.pan}
        for i, figure in enumerate(scene.figures)
    ]
    ground = scene.background
    behind = {"background": ground.color, "pattern": ground.pattern, "drifting": ground.drifting, "pan": scene.pan}
    answers = torch.full((MAX_TOKENS, len(FACTS)), UNASKED)
    number, phrase = 0, phrases[0]
    for position, word in enumerate(caption.split()):
        if word == "and":
            number += 1
            phrase = phrases[number]
        elif word in ("on", "while"):
            phrase = behind
        answers[position] = torch.tensor(
            [values.index(phrase[name]) if name in phrase else UNASKED for name, values in FACTS.items()]
        )
    return answers


class WordReader(nn.Module):
    """The text encoder with a linear answer to every fact; only the encoder is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder()
        self.final_layer = nn.Linear(WIDTH, sum(map(len, FACTS.values())))

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return per fact the scores (B, L, answers) for token ids and mask (B, L)."""
        features = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.final_layer(features).split([len(values) for values in FACTS.values()], dim=-1)


def train_words(trainer: Trainer, count: int = CAPTIONS) -> T5EncoderModel:
    """Train the text encoder on `count` captions of training scenes."""
    workers = trainer.workers
    torch.manual_seed(trainer.seed)
    reader = WordReader()
    rng = np.random.default_rng((trainer.seed, workers.rank))
    scenes = [draw_scene(rng, held_out=False) for _ in range(count)]
    captions = [random_caption(scene, rng) for scene in scenes]
    ids, mask = (tokens.to(workers.device) for tokens in tokenize(captions))
    pairs = zip(scenes, captions, strict=True)
    answers = torch.stack([word_facts(scene, caption) for scene, caption in pairs]).to(workers.device)

    def loss_function(step: Step) -> Tensor:
        size = (BATCH * workers.small_load,)
        chosen = torch.randint(count, size, generator=step.generator, device=workers.device)
        scores = reader(ids[chosen], mask[chosen])
        right = answers[chosen].unbind(-1)
        return sum(F.cross_entropy(s.flatten(0, 1), a.flatten()) for s, a in zip(scores, right, strict=True))

    trainer.fit(reader, loss_function, f"{count} captions")
    return reader.text_encoder
