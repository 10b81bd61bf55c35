"""The training loop: a killed run goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mini.training.trainer import MuonAdam, Recipe, Trainer
from mini.training.workers import Workers

RECIPE = Recipe(steps=12, adam_lr=1e-2, muon_lr=1e-2, warmup=2, checkpoint_every=5)


class Killed(Exception):
    pass


def build(folder: Path) -> Trainer:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(128, 8))
    return Trainer("toy", folder, module, RECIPE, Workers(), seed=3)


def loss_of(trainer: Trainer, killed_at: int | None = None):
    def loss_function(step: int, generator: torch.Generator) -> torch.Tensor:
        if step == killed_at:
            raise Killed
        return (trainer.module(torch.randn(4, 8, 4, 4, generator=generator)) - 1).pow(2).mean()

    return loss_function


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    straight = build(tmp_path / "a")
    straight.fit(loss_of(straight))
    killed = build(tmp_path / "b")
    with pytest.raises(Killed):
        killed.fit(loss_of(killed, killed_at=8))
    resumed = build(tmp_path / "b")
    resumed.fit(loss_of(resumed))
    assert resumed.losses == straight.losses
    for a, b in zip(resumed.module.parameters(), straight.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_run_is_not_continued(tmp_path):
    first = build(tmp_path)
    first.fit(loss_of(first))
    other = build(tmp_path)
    other.seed = 4
    with pytest.raises(ValueError, match="delete it or choose another"):
        other.fit(loss_of(other))


def test_training_lowers_the_loss_and_draws_it(tmp_path):
    trainer = build(tmp_path)
    trainer.fit(loss_of(trainer))
    assert len(trainer.losses) == RECIPE.steps
    assert trainer.losses[-1] < trainer.losses[0]
    assert (tmp_path / "toy.png").stat().st_size > 1000


def test_muon_moves_the_convolution_itself_not_a_copy(tmp_path):
    trainer = build(tmp_path)
    weight = trainer.module[0].weight
    before = weight.detach().clone()
    optimizer = MuonAdam(trainer.module, RECIPE)
    loss_of(trainer)(0, torch.Generator().manual_seed(0)).backward()
    optimizer.step(5)
    assert not torch.equal(weight, before)


def test_the_learning_rate_warms_up_holds_and_falls_to_zero():
    recipe = Recipe(steps=100, adam_lr=1, muon_lr=1, warmup=10, decay_from=0.5)
    assert recipe.rate(0) == pytest.approx(0.1)
    assert recipe.rate(30) == 1
    assert recipe.rate(75) == pytest.approx(0.5)
    assert recipe.rate(100) == 0
