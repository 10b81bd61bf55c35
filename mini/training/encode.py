"""Stage 'latents': render and encode the training clips of every bucket once."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mini.training.buckets import Bucket, scaled
from mini.training.train_vae import to_video
from mini.training.trainer import digest
from mini.training.workers import Workers
from mini.world.clips import is_finished, make_caption, make_clip, mark_finished
from opensora.models.vae import VideoAutoencoderPipeline

FRAMES_AT_ONCE = 102  # of a CPU process; as many as six clips of one chunk or two of three have


def encode_buckets(vae: VideoAutoencoderPipeline, folder: Path, scale: float, seed: int, workers: Workers) -> None:
    """Encode `scale` times the clips of every bucket; no two buckets share a clip."""
    for position, (bucket, count) in enumerate(scaled(scale)):
        encode_clips(vae, folder / str(bucket), bucket, count, seed + position, workers)


@torch.no_grad()
def encode_clips(
    vae: VideoAutoencoderPipeline, folder: Path, bucket: Bucket, count: int, seed: int, workers: Workers
) -> None:
    """Write `latents.npy` (count, 4, T, H, W) float16 and `captions.json`; do nothing if they are finished.

    A killed run starts this bucket again.
    """
    facts = {
        "seed": seed,
        "count": count,
        "bucket": str(bucket),
        "autoencoder": digest(vae.spatial_vae, vae.temporal_vae),
    }
    if is_finished(folder, facts):
        return
    shape = (count, vae.out_channels, *vae.get_latent_size([bucket.frames, *bucket.size]))
    if workers.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(folder / "latents.npy", "w+", np.float16, shape)
    workers.wait()
    latents = np.load(folder / "latents.npy", mmap_mode="r+")
    indices = workers.share(count)
    make = partial(_frames, seed, bucket)
    batch = max(1, FRAMES_AT_ONCE * workers.load // bucket.frames)
    start = 0
    for frames in workers.render(make, indices, batch, f"latents {bucket}"):
        video = to_video(frames.to(workers.device)).movedim(1, 2)
        with workers.autocast():
            encoded = vae.encode(video, sample_posterior=False)
        latents[indices[start : start + len(frames)]] = encoded.half().cpu().numpy()
        start += len(frames)
    latents.flush()
    workers.wait()
    if workers.is_main:
        (folder / "captions.json").write_text(json.dumps([make_caption(seed, i) for i in range(count)]))
        mark_finished(folder, facts)
    workers.wait()


def _frames(seed: int, bucket: Bucket, index: int) -> Tensor:
    return make_clip(seed, index, frames=bucket.frames, size=bucket.size).frames
