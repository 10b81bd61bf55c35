"""The training loop: a killed run goes on as if nothing had happened."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from mini.errors import TrainingError
from mini.training.trainer import Muon, Recipe, Step, Trainer
from mini.training.workers import Workers, run_workers
from opensora.files import REPO_ROOT
from scripts import train_mini

RECIPE = Recipe(steps=12, adam_lr=1e-2, muon_lr=1e-2, warmup=2, checkpoint_every=5)


class Killed(Exception):
    pass


def toy(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(128, 8))


def fit(folder: Path, module: nn.Module, killed_at: int | None = None, data: str = "", **settings) -> list[float]:
    """Train; return the losses."""

    def loss_function(step: Step) -> torch.Tensor:
        if step.number == killed_at:
            raise Killed
        target = 1 + 0.01 * step.shared.random()
        return (module(torch.randn(4, 8, 4, 4, generator=step.generator)) - target).pow(2).mean()

    return Trainer("toy", folder, RECIPE, Workers(), **{"seed": 3, **settings}).fit(module, loss_function, data)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    straight, killed, resumed = toy(), toy(), toy()
    losses = fit(tmp_path / "a", straight)
    with pytest.raises(Killed):
        fit(tmp_path / "b", killed, killed_at=8)
    assert fit(tmp_path / "b", resumed) == losses
    for a, b in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("other", [{"seed": 4}, {"data": "other clips"}, {"module": toy(1)}])
def test_a_checkpoint_of_another_run_is_not_continued(tmp_path, other):
    fit(tmp_path, toy())
    with pytest.raises(ValueError, match="delete it or choose another"):
        fit(tmp_path, **{"module": toy(), **other})


def test_training_lowers_the_loss_and_draws_it(tmp_path):
    losses = fit(tmp_path, toy())
    assert len(losses) == RECIPE.steps
    assert losses[-1] < losses[0]
    assert (tmp_path / "toy.png").stat().st_size > 1000


def test_a_time_limit_takes_the_place_of_the_steps(tmp_path):
    module = toy()
    progress = []

    def loss_function(step: Step) -> torch.Tensor:
        progress.append(step.progress)
        time.sleep(0.02)
        return module(torch.ones(1, 8, 4, 4)).square().mean()

    Trainer("toy", tmp_path, RECIPE, Workers(), seconds=0.3).fit(module, loss_function)
    assert 2 < len(progress) < 16
    assert progress == sorted(progress)
    assert progress[0] == 0
    assert progress[-1] < 1


def test_a_timed_run_goes_on_under_another_limit(tmp_path):
    with pytest.raises(Killed):
        fit(tmp_path, toy(), killed_at=7, seconds=1000.0)
    losses = torch.load(tmp_path / "toy.pt")["losses"]
    assert len(losses) == RECIPE.checkpoint_every
    assert fit(tmp_path, toy(), seconds=0.1)[: len(losses)] == losses


def test_muon_takes_matrices_of_one_shape_together_as_torch_takes_each():
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


def test_the_command_multiplies_the_learning_rates_and_the_steps(tmp_path):
    options = argparse.Namespace(work=tmp_path, seed=0, scale=0.5, rate=0.25, minutes=None, stages=("diffusion",))
    with train_mini.Training(Workers(), options, 0.0).trainer("diffusion") as trainer:
        own, given = trainer.recipe, train_mini.RECIPES["diffusion"]
    assert (own.adam_lr, own.muon_lr, own.steps) == (given.adam_lr / 4, given.muon_lr / 4, given.steps / 2)


@pytest.mark.parametrize(("stage", "is_told"), [("joint", True), ("decoders", False)])
def test_new_latents_without_a_transformer_for_them_are_told(stage, is_told, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_mini.Training, "train_vae", lambda *_: None)
    monkeypatch.setattr(train_mini, "export", lambda *_: 1e6)
    options = argparse.Namespace(
        work=tmp_path, output=tmp_path, seed=0, start=REPO_ROOT / "assets/opensora-mini", stages=(stage,)
    )
    train_mini.Training(Workers(), options, 0.0).run()
    assert ("its transformer knows other latents; train it, too: --from" in capsys.readouterr().out) == is_told


def refuse(workers: Workers, text: str) -> None:
    raise TrainingError(text)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_is_wrong_is_told_in_one_sentence_by_all_processes(processes, capfd):
    with pytest.raises(TrainingError) as ended:
        run_workers(processes, "cpu", refuse, "choose another --work folder")
    assert str(ended.value) == "choose another --work folder" and ended.value.__cause__ is None
    assert "Traceback" not in capfd.readouterr().err
