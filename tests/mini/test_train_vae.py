"""Training the autoencoders: what counts more in the decoders' loss."""

from __future__ import annotations

import torch

from mini.training.train_vae import CROP, FIGURE_WEIGHT, MOTION_WEIGHT, Chunks, reconstruction_loss
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
