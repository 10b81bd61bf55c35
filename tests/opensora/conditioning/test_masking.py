"""Mask strategies against the reference's masks and latents; where it asserts or overruns, a clear error."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from opensora.conditioning.mask_strategy import check_placement
from opensora.conditioning.masking import (
    append_clip,
    apply_mask_strategy,
    find_nearest_point,
    parse_mask_strategy,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "tables"
PROMPTS = json.loads((GOLDEN / "prompts.json").read_text())
REFERENCE = json.loads((GOLDEN / "mask_strategy.json").read_text())
INPUTS = load_file(GOLDEN / "mask_strategy_inputs.safetensors")
OUTPUTS = load_file(GOLDEN / "mask_strategy_outputs.safetensors")


@pytest.mark.parametrize("row", PROMPTS["parse_mask_strategy"])
def test_parse(row):
    if isinstance(row["result"], list):
        assert [list(entry) for entry in parse_mask_strategy(row["text"])] == row["result"]
    else:  # the reference raises AssertionError or int()'s ValueError
        with pytest.raises(ValueError, match=f"mask strategy '{row['text']}': entry .* one to six numbers"):
            parse_mask_strategy(row["text"])


def test_no_strategy_has_no_entries():
    assert parse_mask_strategy(None) == []


@pytest.mark.parametrize(
    "text", ["0;", ";", "0,,1", "1.5", "0,0,0,0,0", "-1", "0,-1", "0,0,0,0,1,1.5", "0,0,0,0,1,nan"]
)
def test_parse_refuses(text):
    with pytest.raises(ValueError, match="mask strategy"):
        parse_mask_strategy(text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text() | st.text("0123456789,;.-+_e naif"))
def test_any_strategy_is_parsed_or_refused(text):
    try:
        entries = parse_mask_strategy(text)
    except ValueError as error:
        assert str(error).startswith(f"mask strategy '{text}'")
        return
    assert len(entries) == (text.count(";") + 1 if text else 0)
    assert all(e.loop >= 0 and e.ref_id >= 0 and e.length >= 1 and 0 <= e.edit_ratio <= 1 for e in entries)
    assert parse_mask_strategy(";".join(",".join(map(str, entry)) for entry in entries)) == entries


@pytest.mark.parametrize(
    ("strategy", "references", "problem"),
    [
        ("0,0,-5,0,10", [10], None),  # five frames are left to generate
        ("0,0,5,0,10", [10], None),
        ("0,0,0,0,10", [10], "gives all 10 latent frames of loop 0"),
        ("1,0,0,0,1", [1], "begins at latent frame 0 of loop 1, but its first 5 are those of the clip before"),
        ("1,0,0,4,1", [1], "use a start from 5 on"),
        ("1,0,0,-1,1", [1], None),
        ("1,0,0,5,5", [5], "gives all 10 latent frames of loop 1"),
        ("1,0,0,5,5,0.5", [5], None),
        ("0,0,0,0,10,0;0,0,0,0,5,0.4", [10], None),  # five of the frames are edited by a later entry
        ("0,0,0,0,5,0.4;0,0,0,0,10,0", [10], "gives all 10 latent frames of loop 0"),
    ],
)
def test_what_a_placement_leaves_to_generate(strategy, references, problem):
    if problem is None:
        check_placement(strategy, 10, references, 5, 2, carried=5)
    else:
        with pytest.raises(ValueError, match=problem):
            check_placement(strategy, 10, references, 5, 2, carried=5)


@pytest.mark.parametrize("num_latents", [9, 12, 14])
def test_the_end_of_a_video_that_is_no_whole_number_of_chunks_cannot_be_a_chunk(num_latents):
    two_videos = "0,0,-5,0,5;0,1,0,-5,5"
    check_placement(two_videos, 15, [10, 10], 5)
    with pytest.raises(ValueError, match="so the video would not end with them; set a num_frames of whole chunks"):
        check_placement(two_videos, num_latents, [10, 10], 5)
    if num_latents > 10:  # else nothing is left to generate
        check_placement(two_videos, num_latents, [10, 10], 5, compat=True)
        check_placement(two_videos, num_latents, [10, 10], None)  # an autoencoder without chunks


def test_what_compat_moves_is_checked_where_it_goes():
    latents, reference = torch.zeros(1, 1, 15, 2, 2), torch.ones(1, 1, 2, 2)
    mask = apply_mask_strategy(latents, [[reference]], ["1,0,0,3,1"], 1, 5, compat=True)
    assert (mask == 0).nonzero().tolist() == [[0, 5]]
    check_placement("1,0,0,3,1", 15, [1], 5, 2, carried=5, compat=True)
    with pytest.raises(ValueError, match="begins at latent frame 3 of loop 1"):
        check_placement("1,0,0,3,1", 15, [1], 5, 2, carried=5)


def test_carried_frames_that_are_edited_are_generated_too():
    check_placement("1,0,0,5,5", 10, [5], 5, 2, carried=5, carried_edit=0.5)
    check_placement("1,0,0,0,10", 10, [10], 5, 2, carried=5, carried_edit=0.5)


whole = st.integers(0, 50)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(whole, whole, st.integers(), st.integers(), st.integers(1), st.floats(0, 1)), max_size=4))
def test_written_strategies_are_parsed(entries):
    text = ";".join(",".join(map(str, entry)) for entry in entries)
    assert parse_mask_strategy(text) == entries


@pytest.mark.parametrize("arguments, expected", PROMPTS["find_nearest_point"])
def test_find_nearest_point(arguments, expected):
    assert find_nearest_point(*arguments) == expected


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda case: case["name"])
def test_apply(case):
    name = case["name"]
    z = INPUTS[f"{name}.z"].clone()
    refs = [[INPUTS[f"{name}.ref{b}.{j}"] for j in range(len(lengths))] for b, lengths in enumerate(case["refs"])]
    mask = apply_mask_strategy(z, refs, case["mask_strategys"], case["loop_i"], case["align"], compat=True)
    assert torch.equal(mask, OUTPUTS[f"{name}.mask"])
    assert mask.dtype == torch.float32
    assert torch.equal(z, OUTPUTS[f"{name}.z"])  # in place


def test_alignment_moves_entries_that_fill_a_window_and_upstream_all():
    """ "The last frame" stays the last one, unless it has to be upstream's."""
    ref = torch.arange(1.0, 11).view(1, 10, 1, 1)  # (C, t, H, W)

    def given(strategy: str, compat: bool) -> list[int]:
        z = torch.zeros(1, 1, 10, 1, 1)
        apply_mask_strategy(z, [[ref]], [strategy], 0, 5, compat)
        return z.flatten().int().tolist()

    assert given("0,0,0,-1,1", compat=False) == [0] * 9 + [1]
    assert given("0,0,0,-1,1", compat=True) == [0] * 5 + [1] + [0] * 4
    assert given("0,0,-4,-3,5", compat=False) == given("0,0,-4,-3,5", compat=True) == [0] * 5 + [6, 7, 8, 9, 10]


def test_apply_without_strategies_gives_no_mask():
    assert REFERENCE["empty_strategy_list_returns"] is None
    assert apply_mask_strategy(torch.zeros(1, 4, 5, 2, 2), [[]], [], 0) is None


def test_apply_by_hand():
    z = torch.zeros(2, 1, 4, 1, 1)
    ref = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)  # (C, t, H, W)
    mask = apply_mask_strategy(z, [None, [ref]], [None, "0,0,-2,1,2,0.25"], 0)
    assert z.flatten(1).tolist() == [[0, 0, 0, 0], [0, 2, 3, 0]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 0.25, 0.25, 1]]


@pytest.mark.parametrize(
    "strategy, expected",
    [
        ("0,0,1,0,9", [2, 3, 0, 0]),  # two frames of the reference are left
        ("0,0,2,0,9", [3, 0, 0, 0]),  # one is, and it is not repeated
        ("0,0,0,3,9", [0, 0, 0, 1]),  # one frame of the video is left
    ],
)
def test_length_is_clipped_to_what_is_left(strategy, expected):
    z = torch.zeros(1, 1, 4, 1, 1)
    ref = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)  # (C, t, H, W)
    mask = apply_mask_strategy(z, [[ref]], [strategy], 0)
    assert z.flatten().tolist() == expected
    assert mask.flatten().tolist() == [0 if value else 1 for value in expected]


@pytest.mark.parametrize(
    "strategy, message",
    [
        ("0;0,1", "uses reference 1 .* the sample has 1"),  # the reference raises IndexError
        ("0;0,0,3", "ref_start .* is 3, but there are 3 latent frames: use a start from -3 to 2"),
        ("0;0,0,-4", "ref_start .* is -4"),
        ("0;0,0,0,5", "target_start .* is 5, but there are 5"),
        ("0;", "entry ''"),
    ],
)
def test_apply_refuses_what_does_not_exist_and_changes_nothing(strategy, message):
    z = torch.zeros(1, 4, 5, 2, 2)
    with pytest.raises(ValueError, match=message):
        apply_mask_strategy(z, [[torch.ones(4, 3, 2, 2)]], [strategy], 0)
    assert not z.any()


def test_apply_refuses_a_reference_of_another_size():
    with pytest.raises(ValueError, match=r"shape \(4, 3, 1, 1\), but the video's are \(4, 5, 2, 2\)"):
        apply_mask_strategy(torch.zeros(1, 4, 5, 2, 2), [[torch.ones(4, 3, 1, 1)]], ["0"], 0)


def test_apply_needs_one_strategy_per_sample():
    with pytest.raises(ValueError, match="got 1 mask strategies and 2 lists of references for a batch of 2"):
        apply_mask_strategy(torch.zeros(2, 4, 5, 2, 2), [[], []], ["0"], 0)


def test_appending_twice_is_the_reference():
    latents = torch.tensor([[0.0, 1, 2], [1, 2, 3]]).view(2, 1, 3, 1, 1)
    refs, strategies = [[torch.full((1, 1, 1, 1), 9.0)], []], None
    for row in REFERENCE["append_generated"]:
        strategies = row.get("mask_before", strategies)
        assert [len(r) for r in refs] == row.get("ref_counts_before", [len(r) for r in refs])
        before = [list(r) for r in refs], list(strategies)
        lengths = row["condition_frame_length"], row["condition_frame_edit"]
        new_refs, new_strategies = append_clip(latents, refs, strategies, row["loop_i"], *lengths)
        assert [len(r) for r in new_refs] == row["ref_counts_after"]
        assert new_strategies == row["mask_after"]
        assert [r[-1].flatten().tolist() for r in new_refs] == [[0, 1, 2], [1, 2, 3]]  # each sample its own
        assert ([list(r) for r in refs], list(strategies)) == before  # the reference changes them
        refs, strategies = new_refs, new_strategies


def test_the_next_clip_starts_with_the_end_of_the_last():
    refs, strategies = append_clip(torch.tensor([1.0, 2, 3]).view(1, 1, 3, 1, 1), [[]], [""], 1, 2, 0.0)
    z = torch.zeros(1, 1, 4, 1, 1)
    mask = apply_mask_strategy(z, refs, strategies, 1)
    assert z.flatten().tolist() == [2, 3, 0, 0]
    assert mask.tolist() == [[0, 0, 1, 1]]


def test_a_clip_is_added_to_references_and_strategies():
    first, end = torch.zeros(3, 1, 1), torch.arange(5.0).view(1, 1, 5, 1, 1)
    refs, strategies = append_clip(end, [[first]], ["0"], 2, 5, 0.25)
    assert refs[0][0] is first and torch.equal(refs[0][1], end[0])
    assert strategies == ["0;2,1,-5,0,5,0.25"]


def test_every_sample_needs_its_lists():
    with pytest.raises(ValueError, match="got 1 lists of references and 1 mask strategies for a batch of 2"):
        append_clip(torch.zeros(2, 4, 5, 2, 2), [[]], [""], 1, 5, 0.0)
