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
from opensora.memory.shapes import decoding_bytes
from opensora.models.vae import TilingConfig, VideoAutoencoderConfig, VideoAutoencoderPipeline

FULL = VideoAutoencoderConfig()


def estimate(config, size, dtype=torch.float32, tiling=None, batch=1) -> int:
    """The estimate for videos of a size (frames, height, width)."""
    with torch.device("meta"):
        vae = VideoAutoencoderPipeline(config, tiling).to(dtype)
        z = torch.empty(batch, 4, *vae.get_latent_size(size), dtype=dtype)
    return decoding_bytes(vae, z, size[0])


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
    """Decode a clip of 4 x 6 latents and keep nothing of it."""
    z = torch.zeros(1, 4, vae.latent_frames(frames), 4, 6)
    vae.tiling = tiling
    for _ in vae.decode_chunks(z, frames):
        pass


@pytest.mark.parametrize("tiling", [None, pytest.param(TilingConfig(4), marks=pytest.mark.slow)])
def test_longer_clips_need_no_more_memory(vae, tiling):
    short = peak_live_bytes(lambda: consume(vae, 34, tiling=tiling))
    long = peak_live_bytes(lambda: consume(vae, 51, tiling=tiling))
    latent_frame = 4 * 4 * 6 * 4  # bytes
    latents = 2 * 5 * latent_frame  # of one more chunk, as given and normalized
    left_over = 3 * latent_frame  # frames of one chunk that wait for the next to fill their micro batch
    assert long <= short + latents + left_over


def test_encoding_in_tiles_needs_less_memory(vae):
    video = torch.zeros(1, 3, 4, 256, 256)
    vae.tiling = None
    whole = peak_live_bytes(lambda: vae.encode(video))
    vae.tiling = TilingConfig(8)
    tiled = peak_live_bytes(lambda: vae.encode(video))
    assert tiled < 0.3 * whole


@pytest.mark.parametrize(
    ("batch", "frames", "tiling"), [(1, 20, None), (2, 17, None), (1, 1, None), (1, 20, TilingConfig(8))]
)
def test_the_estimate_is_what_the_allocator_gives_out(vae, batch, frames, tiling, tmp_path):
    z = torch.zeros(batch, 4, vae.latent_frames(frames), 24, 16)
    vae.tiling = tiling

    def decode() -> None:
        for _ in islice(vae.decode_chunks(z, frames), 2):
            pass

    estimated = estimate(vae.config, (frames, 192, 128), tiling=tiling, batch=batch)
    assert 1 / 1.5 <= estimated / allocated_peak(decode, tmp_path) <= 1.5


@pytest.mark.parametrize(
    ("dtype", "tiling", "gigabytes"),
    [
        (torch.float32, None, 11.3),
        (torch.bfloat16, None, 9.0),
        pytest.param(torch.bfloat16, TilingConfig(), 0.7, marks=pytest.mark.slow),
    ],
)
def test_the_memory_that_decoding_720p_takes(dtype, tiling, gigabytes):
    """With the published autoencoder and its micro batches of 4 frames; in 16 bits convolutions copy, too."""
    assert estimate(FULL, (51, 720, 1280), dtype, tiling) / 1e9 == pytest.approx(gigabytes, rel=0.05)


def test_micro_batches_and_chunks_count():
    def of(**changes: int | None) -> int:
        return estimate(replace(FULL, **changes), (34, 256, 256))

    assert of(micro_batch_size=1) < 0.4 * of() < of(micro_batch_size=None)
    assert of(micro_frame_size=None, micro_batch_size=1) > of(micro_batch_size=1)
