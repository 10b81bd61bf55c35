"""Which frames take part: what is picked, what two steps have in common, what a caller may say."""

import pytest
import torch

from adacache.frames import FrameSet, read_frames

ALL = FrameSet()
# Two videos of three frames: the first begins with a frame that is held, the second has one in the middle.
PARTS = FrameSet(((False, True, True), (True, False, True)))


def tokens(rows: int = 2) -> torch.Tensor:
    """(rows, 6, 1), two tokens for each of three frames: row 0 has 0, 1, 10, 11, 20, 21, row 1 has 100 more."""
    frame = torch.arange(3).repeat_interleave(2) * 10 + torch.tensor([0, 1] * 3)
    return (frame + 100 * torch.arange(rows)[:, None])[..., None].float()


def test_where_all_frames_take_part_a_tensor_stays_what_it_is():
    tensor = tokens()
    assert ALL.take(tensor) is tensor
    assert FrameSet(((True, True, True), (True, True, True))) == ALL


def test_frames_that_are_held_are_left_out():
    assert PARTS.take(tokens()).flatten(1).tolist() == [[10, 11], [20, 21], [100, 101], [120, 121]]


def test_rows_of_guidance_branches_belong_to_their_videos():
    picked = PARTS.take(tokens(4)).flatten(1)
    assert picked[:, 0].tolist() == [10, 20, 100, 120, 210, 220, 300, 320]


def test_frames_may_be_apart_and_in_any_memory():
    apart = tokens().unflatten(1, (3, 2))  # (B, T, S, C)
    for tensor in (apart, apart.transpose(1, 2).contiguous().transpose(1, 2)):
        assert torch.equal(PARTS.take(tensor).flatten(1), PARTS.take(tokens()).flatten(1))
    latents = apart.permute(0, 3, 1, 2)[..., None]  # (B, C, T, H, W)
    assert torch.equal(PARTS.take(latents.transpose(1, 2)).flatten(1), PARTS.take(tokens()).flatten(1))


def test_pairs_are_of_frames_that_both_take_part():
    later, earlier = PARTS.take_pairs(tokens(), 1, 2)  # only frames 1 and 2 of the first video
    assert (later.flatten().tolist(), earlier.flatten().tolist()) == ([20, 21], [10, 11])
    later, earlier = PARTS.take_pairs(tokens(), 2, 2)  # only frames 0 and 2 of the second
    assert (later.flatten().tolist(), earlier.flatten().tolist()) == ([120, 121], [100, 101])
    assert PARTS.take_pairs(tokens(), 3, 2) is None
    assert FrameSet(((True, False, False),)).take_pairs(tokens(), 1, 2) is None


def test_nothing_is_picked_where_nothing_takes_part():
    none = FrameSet(((False, False, False),))
    assert none.is_empty and not PARTS.is_empty and not ALL.is_empty
    assert none.take(tokens()).shape == (0, 2, 1)


def test_two_steps_have_in_common_what_is_in_both():
    first = FrameSet(((False, True), (True, True)))
    second = FrameSet(((True, True), (True, False)))
    assert first.common(second) == FrameSet(((False, True), (True, False)))
    assert first.common(ALL) == ALL.common(first) == first
    assert ALL.common(ALL) == ALL


def test_videos_whose_frames_differ_are_told():
    assert FrameSet(((False, True), (True, True))).differs(ALL) == (True, False)
    assert ALL.differs(FrameSet(((True, True), (False, True)))) == (False, True)
    assert PARTS.differs(PARTS) == (False, False)


def test_one_video_s_frames_are_a_set_of_their_own():
    assert PARTS.of_video(1) == FrameSet(((True, False, True),))
    assert FrameSet(((True, True), (False, True))).of_video(0) == ALL
    assert ALL.of_video(5) == ALL


def test_a_caller_gives_a_bool_for_each_frame():
    assert read_frames([[True, True], [True, True]], 2, 2) == ALL
    assert read_frames([[False, True]], 1, None) == FrameSet(((False, True),))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[True, True]], "for each of the 2 videos of the run, got 1"),
        ([True, False], r"for each of the 2 videos of the run, got \[True, False\]"),
        (torch.ones(2, 2, dtype=torch.bool), "must hold plain bools; read a tensor once before the run"),
        ([[1, 0], [1, 1]], "must hold plain bools"),
        ([[True], [True, True]], "got lists of 1, 2"),
        ([[], []], "got lists of 0"),
    ],
)
def test_anything_else_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        read_frames(value, 2, None)


def test_the_number_of_frames_does_not_change():
    with pytest.raises(ValueError, match="the same number for all videos and steps of a run, got lists of 2, 3"):
        read_frames([[True, False, True]], 1, 2)
