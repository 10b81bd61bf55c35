"""Stage 'latents': render and encode the training clips of every bucket once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mini.training.buckets import Bucket, scaled
from mini.training.train_vae import to_video
from mini.training.workers import Workers
from mini.world.clips import is_finished, make_caption, make_clip, mark_finished
from opensora.models.vae import VideoAutoencoderPipeline

FRAMES_AT_ONCE = 272  # as many as 16 of the shortest clips have


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
    facts = {"seed": seed, "count": count, "bucket": str(bucket)}
    if is_finished(folder, facts):
        return
    shape = (count, vae.out_channels, *vae.get_latent_size([bucket.frames, *bucket.size]))
    if workers.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(folder / "latents.npy", "w+", np.float16, shape)
    workers.wait()
    latents = np.load(folder / "latents.npy", mmap_mode="r+")
    batch = max(1, FRAMES_AT_ONCE // bucket.frames)
    starts = range(batch * workers.rank, count, batch * workers.count)
    for start in tqdm(starts, desc=f"latents {bucket}", disable=not workers.is_main, mininterval=5):
        indices = range(start, min(start + batch, count))
        clips = [make_clip(seed, i, frames=bucket.frames, size=bucket.size).frames for i in indices]
        video = to_video(np.stack(clips)).movedim(1, 2)
        with torch.autocast("cpu", torch.bfloat16):
            latents[list(indices)] = vae.encode(video, sample_posterior=False).numpy()
    latents.flush()
    workers.wait()
    if workers.is_main:
        (folder / "captions.json").write_text(json.dumps([make_caption(seed, i) for i in range(count)]))
        mark_finished(folder, facts)
    workers.wait()
