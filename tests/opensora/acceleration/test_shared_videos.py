"""Processes that share a video make what one process makes, and decide as it does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.timing.scaling import count_steps, group_of
from opensora.acceleration.video_group import VideoGroup
from opensora.models.stdit import STDiT3
from tests.support import torchrun
from tests.support.shared_videos import CASES, DECODED, DECODING, DEPTH, MESHES, PAIRS, decode, load, sample

RANKS = 4
ALONE = VideoGroup()
# Distances of steps that hardly differ are small differences of large sums.
SCHEDULE_ERROR = 1e-4


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> list[dict]:
    """What each of four processes got, in every arrangement."""
    folder = tmp_path_factory.mktemp("shared")
    done = torchrun.run(RANKS, "tests/support/shared_videos.py", folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def pipe():
    return load()


@pytest.fixture(scope="module")
def alone(pipe) -> dict[str, dict]:
    """What one process gets."""
    return {name: sample(pipe, case, ALONE) for name, case in CASES.items()}


@pytest.mark.parametrize(("shape", "name"), PAIRS, ids=str)
def test_latents_are_those_of_one_process(shared, alone, name, shape):
    expected = alone[name]["latents"]
    for results in shared:
        latents = results[str(shape), name]["latents"]
        assert (latents - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
        assert torch.equal(latents, shared[0][str(shape), name]["latents"])


@pytest.mark.parametrize(("shape", "name"), [pair for pair in PAIRS if CASES[pair[1]].cache is not None], ids=str)
def test_all_processes_decide_alike_and_as_one_does(shared, alone, name, shape):
    expected = alone[name]
    assert "pab" in name or any(len(steps) < 10 for steps in expected["computed"])  # that one reuses branches
    for results in shared:
        assert results[str(shape), name]["computed"] == expected["computed"]
        # To the last bit among the processes: they must not fall apart over a rounding.
        assert results[str(shape), name]["records"] == shared[0][str(shape), name]["records"]
    for records, own in zip(shared[0][str(shape), name]["records"], expected["records"], strict=True):
        for numbers, ours in zip(records, own, strict=True):
            for number, our in zip(numbers, ours, strict=True):
                assert number == our or number == pytest.approx(our, rel=SCHEDULE_ERROR, abs=1e-6)


@pytest.mark.parametrize("shape", DECODING, ids=str)
@pytest.mark.parametrize("num_frames", [frames for frames, _ in DECODED])
def test_pixels_are_those_of_one_process(shared, pipe, num_frames, shape):
    expected = decode(pipe, num_frames, dict(DECODED)[num_frames], ALONE)
    assert expected.shape[1] == num_frames
    for results in shared:
        assert np.array_equal(results[str(shape), "decoded", num_frames], expected)


@pytest.mark.parametrize(
    ("shape", "name"),
    [pair for pair in PAIRS if pair[1] in ("moreg", "one schedule", "fitted bridge", "given frames")],
    ids=str,
)
def test_reused_steps_exchange_nothing_in_the_blocks_and_computed_ones_agree_by_a_few_numbers(
    shared, alone, name, shape
):
    computed = set(alone[name]["computed"][0]) | set(alone[name]["computed"][1])
    for results in shared:
        calls = results[str(shape), name]["calls"]
        assert len(calls) == 10
        for step, sent in enumerate(calls):
            assert ("blocks" in sent) == (step in computed and shape.sequence > 1)
            assert sent.get("schedule", 0) <= 2 * 64 if step in computed else "schedule" not in sent  # of two videos
            assert sent["output"] > 0


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_a_gap_of_multistep_calls_no_model_and_exchanges_nothing(shared, shape):
    for results in shared:
        assert len(results[str(shape), "multistep"]["calls"]) == 4


def test_bytes_are_those_of_the_parts_that_change_hands(shared):
    """Each process keeps its part of its part: before the temporal block some tokens, after it some frames."""
    rows, frames, tokens, channels, pairs, width = 4, (1, 1, 1, 2), 4, 128, DEPTH, 4
    for rank, results in enumerate(shared):
        to_tokens = rows * frames[rank] * 3 * tokens * channels
        to_frames = rows * (sum(frames) - frames[rank]) * tokens * channels
        sent = results["data 1 x guidance 1 x sequence 4", "plain"]["calls"][0]
        assert sent["blocks"] == pairs * (to_tokens + to_frames) * width
        longest, latents = max(frames), 4 * 8 * 8  # the last layer's result, of as many frames for everybody
        assert sent["output"] == rows * longest * latents * 3 * width


def test_work_that_is_counted_without_data_is_the_work_that_is_done(shared, pipe):
    """The prediction for the published model rests on this."""
    with torch.device("meta"):
        model = STDiT3(pipe.model.config).eval()
        inputs = {
            "x": torch.empty(4, 4, 5, 8, 8),
            "timestep": torch.empty(4),
            "y": torch.empty(4, 1, model.config.model_max_length, model.config.caption_channels),
        }
    for shape in MESHES:
        rank = shape.per_video - 1  # of the processes that split five frames, the last one has two
        with group_of(shape, rank) as group:
            computed, reused = count_steps(model, inputs, group)
        # The steps of one schedule for both videos, as here; the second one is measured.
        calls = shared[rank][str(shape), "one schedule"]["calls"]
        assert computed.sent == calls[1]
        assert reused.sent == {"output": calls[1]["output"]}
        assert computed.flops > 100 * reused.flops > 0
