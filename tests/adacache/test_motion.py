import pytest
import torch

from adacache.distance import motion_score


def frames(*values: float, tokens_per_frame: int = 2) -> torch.Tensor:
    """A residual (1, frames * tokens_per_frame, 3) in which every frame has one value."""
    return torch.tensor(values).repeat_interleave(tokens_per_frame).view(1, -1, 1).expand(1, -1, 3)


def test_the_score_compares_each_frame_with_the_next():
    # differences 2 and 1 over later (3, 2) and earlier (1, 3) frames: (2 + 1) / (5 + 4)
    assert motion_score(frames(1.0, 3.0, 2.0), 2, (1,)).item() == pytest.approx(3 / 9)


def test_the_score_is_the_mean_over_the_strides():
    # stride 1 as above; stride 2 compares 2 with 1: 1 / 3
    residual = frames(1.0, 3.0, 3.0)  # stride 1: 2 / (6 + 4); stride 2: 2 / (3 + 1)
    assert motion_score(residual, 2, (1,)).item() == pytest.approx(0.2)
    assert motion_score(residual, 2, (2,)).item() == pytest.approx(0.5)
    assert motion_score(residual, 2, (1, 2)).item() == pytest.approx(0.35)


def test_frames_are_runs_of_tokens():
    residual = torch.tensor([1.0, 5.0, 1.0, 5.0]).view(1, 4, 1)
    assert motion_score(residual, 2, (1,)).item() == 0  # two equal frames of two tokens
    assert motion_score(residual, 1, (1,)).item() == pytest.approx(12 / 18)  # four frames of one token


def test_a_still_residual_has_no_motion_and_opposite_frames_the_most():
    assert motion_score(frames(2.0, 2.0), 2, (1,)).item() == 0
    assert motion_score(frames(0.0, 0.0), 2, (1,)).item() == 0
    assert motion_score(frames(2.0, -2.0), 2, (1,)).item() == 1


def test_strides_without_a_pair_of_frames_are_left_out():
    residual = frames(1.0, 3.0, 3.0)
    assert motion_score(residual, 2, (1, 3, 7)).item() == pytest.approx(0.2)
    assert motion_score(residual, 2, (3,)) is None


def test_an_image_has_no_motion():
    assert motion_score(frames(1.0), 2, (1,)) is None


def test_the_score_is_a_float32_scalar_on_the_device():
    score = motion_score(torch.empty(2, 6, 3, device="meta", dtype=torch.bfloat16), 2, (1, 2))
    assert (score.dtype, score.shape, score.device.type) == (torch.float32, (), "meta")


def test_tokens_that_make_no_whole_frames_are_refused():
    with pytest.raises(ValueError, match="7 tokens.*tokens_per_frame=2"):
        motion_score(torch.ones(1, 7, 3), 2, (1,))
    with pytest.raises(ValueError, match="tokens_per_frame=0"):
        motion_score(torch.ones(1, 7, 3), 0, (1,))
