"""The memory of decoding: bounded, and known in advance."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from opensora.memory.live_bytes import peak_live_bytes
from opensora.memory.shapes import decode_activation_bytes
from opensora.models.vae import TilingConfig, VideoAutoencoderConfig, VideoAutoencoderPipeline

FULL = VideoAutoencoderConfig()


@pytest.fixture(scope="module")
def vae(golden: Path) -> VideoAutoencoderPipeline:
    return VideoAutoencoderPipeline.from_pretrained(golden / "vae/model")


def allocated_peak(function: Callable[[], object], folder: Path) -> int:
    """The most bytes that PyTorch's CPU allocator gave out at once, work space of its kernels included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    live = peak = 0
    for event in json.loads(trace.read_text())["traceEvents"]:
        if event.get("name") == "[memory]":
            live += event["args"]["Bytes"]
            peak = max(peak, live)
    return peak


def consume(vae: VideoAutoencoderPipeline, frames: int, tiling: TilingConfig | None) -> None:
    """Decode a clip of 8 x 8 latents and keep nothing of it."""
    z = torch.zeros(1, 4, vae.latent_frames(frames), 8, 8)
    for _ in vae.decode_chunks(z, frames, tiling=tiling):
        pass


@pytest.mark.parametrize("tiling", [None, TilingConfig(4)])
def test_longer_clips_need_no_more_memory(vae, tiling):
    short = peak_live_bytes(lambda: consume(vae, 34, tiling=tiling))
    long = peak_live_bytes(lambda: consume(vae, 68, tiling=tiling))
    latent_frame = 4 * 8 * 8 * 4  # bytes
    latents = 2 * 10 * latent_frame  # of two more chunks, as given and normalized
    left_over = 3 * latent_frame  # frames of one chunk that wait for the next to fill their micro batch
    assert long <= short + latents + left_over


def test_encoding_in_tiles_needs_less_memory(vae):
    video = torch.zeros(1, 3, 4, 256, 256)
    whole = peak_live_bytes(lambda: vae.encode(video))
    tiled = peak_live_bytes(lambda: vae.encode(video, tiling=TilingConfig(8)))
    assert tiled < 0.3 * whole


@pytest.mark.parametrize(("batch", "frames"), [(1, 20), (2, 17), (1, 1)])
@pytest.mark.parametrize("tiling", [None, TilingConfig(8)])
def test_the_estimate_is_what_the_allocator_gives_out(vae, batch, frames, tiling, tmp_path):
    z = torch.zeros(batch, 4, vae.latent_frames(frames), 24, 16)

    def decode() -> None:
        for _ in islice(vae.decode_chunks(z, frames, tiling=tiling), 2):
            pass

    estimate = decode_activation_bytes(vae.config, batch, frames, 192, 128, torch.float32, tiling)
    assert 1 / 1.5 <= estimate / allocated_peak(decode, tmp_path) <= 1.5


@pytest.mark.parametrize(("dtype", "whole", "tiled"), [(torch.float32, 11.3, 1.4), (torch.bfloat16, 9.0, 0.7)])
def test_of_720p_tiles_need_an_eighth(dtype, whole, tiled):
    """In GB, with the published autoencoder and its micro batches of 4 frames; in 16 bits convolutions copy, too."""

    def estimate(tiling: TilingConfig | None) -> float:
        return decode_activation_bytes(FULL, 1, 51, 720, 1280, dtype, tiling) / 1e9

    assert estimate(None) == pytest.approx(whole, rel=0.02)
    assert estimate(TilingConfig()) == pytest.approx(tiled, rel=0.05)


def test_micro_batches_and_chunks_count():
    def estimate(**changes: int | None) -> int:
        return decode_activation_bytes(replace(FULL, **changes), 1, 34, 256, 256, torch.float32)

    assert estimate(micro_batch_size=1) < 0.4 * estimate() < estimate(micro_batch_size=None)
    assert estimate(micro_frame_size=None, micro_batch_size=1) > estimate(micro_batch_size=1)
