"""The training loop: a killed run goes on as if nothing had happened."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from mini.training.trainer import Muon, Recipe, Step, Trainer
from mini.training.workers import Workers

RECIPE = Recipe(steps=12, adam_lr=1e-2, muon_lr=1e-2, warmup=2, checkpoint_every=5)


class Killed(Exception):
    pass


def build(folder: Path) -> Trainer:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(128, 8))
    return Trainer("toy", folder, module, RECIPE, Workers(), seed=3)


def loss_of(trainer: Trainer, killed_at: int | None = None):
    def loss_function(step: Step) -> torch.Tensor:
        if step.number == killed_at:
            raise Killed
        target = 1 + 0.01 * step.shared.random()
        return (trainer.module(torch.randn(4, 8, 4, 4, generator=step.generator)) - target).pow(2).mean()

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


def test_a_time_limit_takes_the_place_of_the_steps(tmp_path):
    trainer = build(tmp_path)
    trainer.seconds = 0.3
    progress = []

    def loss_function(step: Step) -> torch.Tensor:
        progress.append(step.progress)
        time.sleep(0.02)
        return trainer.module(torch.ones(1, 8, 4, 4)).square().mean()

    trainer.fit(loss_function)
    assert 2 < len(progress) < 16
    assert progress == sorted(progress)
    assert progress[0] == 0
    assert progress[-1] < 1


def test_a_timed_run_goes_on_under_another_limit(tmp_path):
    killed = build(tmp_path)
    killed.seconds = 1000.0
    with pytest.raises(Killed):
        killed.fit(loss_of(killed, killed_at=7))
    resumed = build(tmp_path)
    resumed.seconds = 0.1
    steps = []

    def loss_function(step: Step) -> torch.Tensor:
        steps.append(step.number)
        return loss_of(resumed)(step)

    resumed.fit(loss_function)
    assert steps[0] == RECIPE.checkpoint_every


def test_muon_takes_matrices_of_one_shape_together_as_torch_takes_each(tmp_path):
    torch.manual_seed(0)
    shapes = [(12, 20), (12, 20), (20, 12), (8, 3, 3, 3)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().flatten(1).clone()) for p in ours]
    before = [p.detach().clone() for p in ours]
    muon = Muon(ours, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.flatten(1)
        muon.step(0.01)
        reference.step()
    assert len(muon.groups) == 3
    for a, b, start in zip(ours, theirs, before, strict=True):
        moved = (b.view_as(a) - start).abs().max()
        assert (a - b.view_as(a)).abs().max() < 0.05 * moved  # torch's own computes in bfloat16


def test_the_learning_rate_warms_up_holds_and_falls_to_zero():
    recipe = Recipe(steps=100, adam_lr=1, muon_lr=1, warmup=10, decay_from=0.5)
    assert recipe.rate(0, 0.0) == pytest.approx(0.1)
    assert recipe.rate(30, 0.3) == 1
    assert recipe.rate(75, 0.75) == pytest.approx(0.5)
    assert recipe.rate(100, 1.0) == 0
