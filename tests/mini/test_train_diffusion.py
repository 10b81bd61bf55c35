"""Training the transformer: what a step moves."""

from __future__ import annotations

import pytest
import torch

from mini.training.text import build_text_encoder, tokenize
from mini.training.train_diffusion import TextToVelocity, load_transformer, new_transformer, train_diffusion
from mini.training.trainer import Recipe, Trainer
from mini.training.workers import Workers
from opensora.files import REPO_ROOT
from opensora.models.stdit import STDiT3

MODEL = REPO_ROOT / "assets/opensora-mini/transformer"


class FourClips:
    """A source of the same four clips, whatever is asked for."""

    name = "four clips"

    def draw(self, bucket, count, rng):
        ids, mask = tokenize(["a still red star", "a still blue ring"] * 2)
        frames = 1 if bucket.frames == 1 else bucket.frames // 17 * 5
        height, width = (side // 8 for side in bucket.size)
        return torch.ones(4, 4, frames, height, width), ids, mask


def test_loaded_weights_can_be_trained_as_new_ones_can():
    new, loaded = new_transformer(0), load_transformer(MODEL)
    assert {name for name, p in loaded.named_parameters() if not p.requires_grad} == {"rope.freqs"}
    assert [p.requires_grad for p in new.parameters()] == [p.requires_grad for p in loaded.parameters()]


@pytest.mark.parametrize("compiled", [False, True])
def test_blocks_are_compiled_on_request(compiled, tmp_path, monkeypatch):
    networks, asked = TextToVelocity(build_text_encoder(), load_transformer(MODEL)), []
    monkeypatch.setattr(STDiT3, "compile_blocks", lambda model: asked.append(model))
    recipe = Recipe(steps=1, adam_lr=1e-3, muon_lr=1e-3, warmup=1)
    train_diffusion(Trainer("diffusion", tmp_path, recipe, Workers()), networks, FourClips(), compiled)
    assert asked == [networks.transformer] * compiled


def test_a_step_moves_every_matrix_but_the_fixed_frequencies(tmp_path):
    torch.manual_seed(0)
    networks = TextToVelocity(build_text_encoder(), load_transformer(MODEL))
    before = {name: p.detach().clone() for name, p in networks.named_parameters()}
    recipe = Recipe(steps=4, adam_lr=1e-3, muon_lr=1e-3, warmup=1)
    losses = train_diffusion(Trainer("diffusion", tmp_path, recipe, Workers()), networks, FourClips())
    still = {name for name, p in networks.named_parameters() if torch.equal(p, before[name])}
    assert all(torch.isfinite(torch.tensor(losses)))
    assert still == {"transformer.rope.freqs"}
