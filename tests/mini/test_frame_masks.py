"""Frame masks for training: each strategy gives the frames its name says."""

from __future__ import annotations

import pytest
import torch

from mini.training.frame_masks import CHUNK, STRATEGIES, frame_mask, random_frame_masks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("frames", [5, 10, 15])
def test_some_frames_are_given_and_some_generated(strategy, frames):
    for seed in range(40):
        mask = frame_mask(strategy, frames, generator(seed))
        assert mask.shape == (frames,)
        assert mask.dtype == torch.bool
        assert mask.any()
        assert not mask.all()


@pytest.mark.parametrize(
    ("strategy", "frames", "given"),
    [
        ("image_head", 5, [0]),
        ("image_tail", 5, [4]),
        ("image_head_tail", 5, [0, 4]),
        ("quarter_head", 5, [0]),
        ("quarter_head_tail", 5, [0, 4]),
        ("chunk_head", 10, list(range(CHUNK))),
        ("chunk_head", 5, [0]),
    ],
)
def test_strategies_give_the_frames_of_their_name(strategy, frames, given):
    mask = frame_mask(strategy, frames, generator())
    assert (~mask).nonzero().flatten().tolist() == given


def test_interpolation_gives_every_other_frame():
    masks = {tuple(frame_mask("interpolate", 5, generator(seed)).tolist()) for seed in range(20)}
    assert masks == {(False, True, False, True, False), (True, False, True, False, True)}


def test_a_quarter_is_at_most_a_quarter():
    sizes = {int((~frame_mask("quarter_random", 15, generator(seed))).sum()) for seed in range(60)}
    assert sizes == {1, 2, 3}


def test_a_batch_draws_every_strategy_and_images_are_always_generated():
    masks = random_frame_masks(400, 10, generator())
    assert masks.shape == (400, 10)
    first_only = (~masks[:, 0] & masks[:, 1:].all(1)).float().mean()
    assert 0.3 < first_only < 0.55  # image_head, and the quarters of one frame
    assert random_frame_masks(3, 1, generator()).all()


def test_the_shares_add_up_to_one():
    assert sum(STRATEGIES.values()) == pytest.approx(1)
