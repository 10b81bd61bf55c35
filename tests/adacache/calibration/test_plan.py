from __future__ import annotations

import pytest

from adacache.calibration.plan import Clip, split_clips


def test_prompts_are_shared_out_in_proportion_to_the_clips():
    search, held_out = split_clips(["a", "b", "c", "d", "e", "f"], 2, 4, seed=10)
    assert search == (Clip("a", 10), Clip("b", 11))
    assert held_out == (Clip("c", 12), Clip("d", 13), Clip("e", 14), Clip("f", 15))


def test_with_few_prompts_they_come_again_with_other_seeds():
    search, held_out = split_clips(["a", "b", "c"], 2, 3, seed=0)
    assert search == (Clip("a", 0), Clip("a", 1))
    assert held_out == (Clip("b", 2), Clip("c", 3), Clip("b", 4))


def test_prompts_beyond_the_clips_are_left_alone():
    search, held_out = split_clips([*"abcdefghij"], 1, 2, seed=0)
    assert search == (Clip("a", 0),)
    assert held_out == (Clip("b", 1), Clip("c", 2))


@pytest.mark.parametrize(("num_search", "num_held_out"), [(1, 1), (1, 9), (9, 1), (8, 16), (30, 2)])
@pytest.mark.parametrize("num_prompts", [2, 3, 7, 40])
def test_no_prompt_and_no_seed_is_on_both_sides(num_prompts, num_search, num_held_out):
    prompts = [f"prompt {i}" for i in range(num_prompts)] * 2  # each twice
    search, held_out = split_clips(prompts, num_search, num_held_out, seed=7)
    assert (len(search), len(held_out)) == (num_search, num_held_out)
    assert not {clip.prompt for clip in search} & {clip.prompt for clip in held_out}
    assert len({clip.seed for clip in search + held_out}) == num_search + num_held_out


@pytest.mark.parametrize("prompts", [[], ["a"], ["a", "a"]])
def test_a_single_prompt_is_refused(prompts):
    with pytest.raises(ValueError, match="at least two different prompts"):
        split_clips(prompts, 1, 1, seed=0)
