"""Training the autoencoders: what counts more in the decoders' loss, and which weights a stage moves."""

from __future__ import annotations

import pytest
import torch

from mini.training import train_vae
from mini.training.train_vae import CROP, FIGURE_WEIGHT, MOTION_WEIGHT, Chunks, reconstruction_loss
from mini.training.trainer import Recipe, Trainer
from mini.training.workers import Workers
from mini.world.paths import FRAMES, SIZE


def test_what_is_near_a_figure_counts_more_in_pixels_and_in_latents():
    chunks = Chunks(2, 0, Workers())
    chunks.frames[:] = chunks.frames[:, :1]  # nothing moves
    chunks.centers[0] = torch.tensor([[102.0, 42.0], [torch.nan] * 2, [torch.nan] * 2])
    weights = chunks.weights(torch.tensor([0, 1]), slice(3, 5))
    assert weights.shape == (2, 1, 2, *SIZE)
    near = weights[0, 0, 0] == FIGURE_WEIGHT
    rows, columns = near.any(1).nonzero().flatten(), near.any(0).nonzero().flatten()
    assert (rows.min(), rows.max()) == (42 - CROP // 2, 42 + CROP // 2 - 1)
    assert (columns.min(), columns.max()) == (102 - CROP // 2, SIZE[1] - 1)  # it ends at the frame's edge
    assert set(weights.unique().tolist()) == {1.0, FIGURE_WEIGHT}
    assert torch.equal(chunks.weights(torch.tensor([0]), slice(3, 5), 8), weights[:1, ..., 4::8, 4::8])
    chunks.centers[1, :, 2] = torch.tensor([20.0, 100.0])
    assert (chunks.weights(torch.tensor([1]), slice(FRAMES))[..., 100, 20] == FIGURE_WEIGHT).all()


def test_what_moves_near_a_figure_counts_most():
    chunks = Chunks(1, 0, Workers())
    chunks.frames[:], chunks.centers[:] = 100, torch.nan
    chunks.centers[:, :, 1] = 64.0
    chunks.frames[0, 5, 70, 50], chunks.frames[0, 5, 20, 20] = torch.tensor([100, 140, 100]), 0  # one near, one far
    chunks.frames[0, 5, 60, 60] = 110  # hardly
    weights = chunks.weights(torch.tensor([0]), slice(3, 8))
    moving = [[frame, 70, 50] for frame in (1, 2, 3)]  # and in the frames before and after
    assert (weights[0, 0] == MOTION_WEIGHT).nonzero().tolist() == moving
    assert (weights[0, 0, :, 20, 20] == 1).all()
    latents = chunks.weights(torch.tensor([0]), slice(3, 8), 8)
    assert (latents[0, 0] == MOTION_WEIGHT).nonzero().tolist() == [[frame, 70 // 8, 50 // 8] for frame in (1, 2, 3)]


def test_the_reconstruction_loss_is_absolute_plus_squared_error_and_weighted_by_pixel():
    output, target = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])
    assert reconstruction_loss(output, target) == ((1 + 2 * 1) + (2 + 2 * 4)) / 2
    assert reconstruction_loss(output, target, 1.0, torch.tensor([4.0, 1.0])) == (4 * (1 + 1) + (2 + 4)) / 2


def test_what_trains_the_decoders_sees_more_of_several_figures():
    chunks = Chunks(3, 0, Workers())
    chunks.centers[:] = torch.nan
    for number in range(3):
        chunks.centers[number, :, : number + 1] = 64.0
    drawn = chunks.draw_crowded(14_000, torch.Generator().manual_seed(0))
    assert (drawn.bincount() / 1000 - torch.tensor([1.0, 4.0, 9.0])).abs().max() < 0.3


@pytest.mark.parametrize(("stage", "moves_latents"), [("train_joint", True), ("train_decoders", False)])
def test_only_the_joint_stage_moves_latents(stage, moves_latents, tmp_path, monkeypatch):
    monkeypatch.setattr(train_vae, "CLIPS", 1)
    vae = train_vae.new_autoencoder(0).requires_grad_(False)
    chunks = Chunks(1, 0, Workers())
    spatial_latents = train_vae.encode_frames(vae.spatial_vae, chunks, Workers())
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    recipe = Recipe(steps=2, adam_lr=1e-3, muon_lr=1e-3, warmup=1)
    getattr(train_vae, stage)(Trainer(stage, tmp_path, recipe, Workers()), vae, chunks, spatial_latents)
    moved = {name for name, tensor in vae.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("temporal_vae.decoder") for name in moved)
    assert any(name.startswith("spatial_vae.module.decoder") for name in moved)
    encoder = {name for name in before if name.startswith(("temporal_vae.encoder", "temporal_vae.quant_conv"))}
    assert encoder
    assert bool(encoder & moved) == moves_latents
    assert ("scale" in moved) == moves_latents
    assert not any(name.startswith("spatial_vae.module.encoder") for name in moved)
