"""The weights of 128 x 128 pixels: small, and they sample at every size and length they were trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adacache.calibration.quality import psnr
from mini.check.check import check_clip
from mini.world.captions import parse_caption
from mini.world.paths import random_shot
from mini.world.render import render
from opensora.config.loading import load_config
from opensora.pipeline import SamplingError, SamplingPipeline

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/mini/sample.py"
FIRST_FRAME, FIRST_CHUNK = "0,0,0,0,1,0", "0,0,0,0,5,0"


@pytest.fixture(scope="module")
def pipe() -> SamplingPipeline:
    return SamplingPipeline.from_config(load_config(CONFIG, {"verbose": 0}))


def with_settings(pipe: SamplingPipeline, **settings) -> SamplingPipeline:
    """The same models under changed settings."""
    config = load_config(CONFIG, {"verbose": 0, **settings})
    return SamplingPipeline(pipe.model, pipe.vae, pipe.text_encoder.encoder, pipe.scheduler, config)


def real_clip(caption: str, frames: int = 17) -> np.ndarray:
    scene = parse_caption(caption)
    return render(scene, random_shot(scene, np.random.default_rng(3), frames)).numpy()


def test_all_weights_fit_in_40_megabytes():
    files = list((ROOT / "assets/opensora-mini").glob("*/*.safetensors"))
    assert len(files) == 3
    assert sum(path.stat().st_size for path in files) <= 40e6


@pytest.mark.parametrize(
    "caption",
    [
        "a still purple square on a gray gradient background",
        "a growing red heart on a navy striped background",
    ],
)
def test_videos_show_their_captions(pipe, caption):
    video = pipe([caption], seed=5).videos[0]
    wrong = [name for name, right in check_clip(video, caption).items().items() if not right]
    assert wrong == []


def test_a_given_first_frame_is_kept_and_continued(pipe):
    caption = "a yellow square moving fast to the right on a navy background"
    real = real_clip(caption)
    reference = pipe.encode_reference(real[:1])
    quick = with_settings(pipe, num_sampling_steps=10)
    output = quick([caption], seed=1, references=[[reference]], mask_strategies=[FIRST_FRAME])
    assert torch.equal(output.latents[0, :, 0], reference[:, 0])
    assert psnr(output.videos[0][:1], real[:1]) > 30


def test_a_given_chunk_is_extended(pipe):
    caption = "a bouncing red triangle on a black background"
    real = real_clip(caption, 34)
    longer = with_settings(pipe, num_frames=34, num_sampling_steps=6)
    reference = pipe.encode_reference(real[:17])
    output = longer([caption], seed=1, references=[[reference]], mask_strategies=[FIRST_CHUNK])
    assert output.videos[0].shape == (34, 128, 128, 3)
    assert torch.equal(output.latents[0, :, :5], reference)
    assert psnr(output.videos[0][17:], real[17:]) > 15
    assert check_clip(output.videos[0], caption).background


def test_a_reference_of_another_size_is_refused(pipe):
    reference = torch.zeros(4, 1, 6, 6)
    with pytest.raises(SamplingError, match="encode the reference at the size of the video"):
        pipe(["a still red star"], references=[[reference]], mask_strategies=[FIRST_FRAME])


def test_a_strategy_without_its_reference_is_refused(pipe):
    with pytest.raises(SamplingError, match="uses reference 0"):
        pipe(["a still red star"], mask_strategies=[FIRST_FRAME])


def test_references_without_a_place_are_refused(pipe):
    with pytest.raises(SamplingError, match="no mask_strategies"):
        pipe(["a still red star"], references=[[torch.zeros(4, 1, 16, 16)]])


@pytest.mark.parametrize(
    ("num_frames", "image_size"),
    [(1, (128, 128)), pytest.param(51, (128, 128), marks=pytest.mark.slow), (17, (128, 192))],
)
def test_other_lengths_and_sizes_show_their_background(pipe, num_frames, image_size):
    caption = "a green circle moving slowly to the left on a black background"
    other = with_settings(pipe, num_frames=num_frames, image_size=image_size, num_sampling_steps=5)
    video = other([caption], seed=4).videos[0]
    assert video.shape == (num_frames, *image_size, 3)
    assert check_clip(video, caption).background
