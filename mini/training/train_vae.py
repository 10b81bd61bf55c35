"""Stages 'vae' and 'temporal': train the 2-D autoencoder on single frames, then the temporal one on its latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mini.training.trainer import Recipe, Trainer
from mini.training.workers import Workers
from mini.world.paths import FRAMES, SIZE
from opensora.models.vae.vae import SpatialVAE, VideoAutoencoderConfig, VideoAutoencoderPipeline
from opensora.models.vae.vae_temporal import TemporalVAEConfig, VAETemporal

AUTOENCODER_KL = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [16, 32, 64, 64],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "act_fn": "silu",
    "mid_block_add_attention": False,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEMPORAL = TemporalVAEConfig(
    filters=32,
    num_res_blocks=1,
    channel_multipliers=(1, 2, 2),
    temporal_downsample=(True, True),
    num_groups=8,
)
CROP = 32
CROP_SHARE = 0.6  # of the steps look only at the surroundings of the shape, where all the detail is
PIXEL_LOSS_FROM = 0.55  # share of the temporal steps after which the decoded pixels count, too

SPATIAL_RECIPE = Recipe(steps=2600, adam_lr=2e-3, muon_lr=4e-3, ema=0.998, decay_from=0.3, weight_decay=0.0)
TEMPORAL_RECIPE = Recipe(steps=1700, adam_lr=2e-3, muon_lr=4e-3, ema=0.998, decay_from=0.3, weight_decay=0.0)


def to_video(frames: np.ndarray) -> Tensor:
    """Convert uint8 (..., H, W, 3) to float (..., 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -3).float() / 127.5 - 1


class FrameSource:
    """Draws single frames, or crops around the shape, from the rendered clips."""

    def __init__(self, clips: Path):
        self.frames = np.load(clips / "frames.npy", mmap_mode="r")
        self.centers = np.load(clips / "centers.npy", mmap_mode="r")

    def full(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` whole frames (count, 3, H, W)."""
        clip, frame = self._pick(count, generator)
        return to_video(self.frames[clip, frame])

    def crops(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` crops (count, 3, CROP, CROP) whose middle is near the shape."""
        clip, frame = self._pick(count, generator)
        shift = torch.randint(-CROP // 2, CROP // 2 + 1, (count, 2), generator=generator).numpy()
        corners = self.centers[clip, frame].round().astype(int) - CROP // 2 + shift
        corners = corners.clip(0, np.array(SIZE[::-1]) - CROP)
        cut = [self.frames[c, f, y : y + CROP, x : x + CROP] for c, f, (x, y) in zip(clip, frame, corners, strict=True)]
        return to_video(np.stack(cut))

    def clips(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` whole clips (count, 3, FRAMES, H, W)."""
        clip = torch.randint(len(self.frames), (count,), generator=generator).sort().values.numpy()
        return to_video(self.frames[clip]).movedim(1, 2)

    def _pick(self, count: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        clip = torch.randint(len(self.frames), (count,), generator=generator)
        frame = torch.randint(FRAMES, (count,), generator=generator)
        return clip.numpy(), frame.numpy()


def reconstruction_loss(output: Tensor, target: Tensor, square_weight: float = 2.0) -> Tensor:
    """Return the mean absolute error plus a weighted mean squared error."""
    return F.l1_loss(output, target) + square_weight * F.mse_loss(output, target)


def train_spatial(clips: Path, folder: Path, workers: Workers, recipe: Recipe, seed: int) -> SpatialVAE:
    """Train the 2-D autoencoder."""
    torch.manual_seed(seed)
    vae = SpatialVAE(AUTOENCODER_KL, micro_batch_size=None)
    source = FrameSource(clips)

    def loss_function(step: int, generator: torch.Generator) -> Tensor:
        crop = step < CROP_SHARE * recipe.steps
        images = source.crops(48, generator) if crop else source.full(16, generator)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.module.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            output = vae.module.decode(posterior.mean + posterior.std * noise).sample.float()
        divergence = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return reconstruction_loss(output, images) + 1e-4 * divergence

    Trainer("vae", folder, vae, recipe, workers, seed).fit(loss_function)
    return vae


def train_temporal(
    vae: SpatialVAE, clips: Path, folder: Path, workers: Workers, recipe: Recipe, seed: int
) -> VAETemporal:
    """Train the temporal autoencoder on the frozen 2-D latents, in the end also through the frozen 2-D decoder."""
    vae.requires_grad_(False).eval()
    torch.manual_seed(seed)
    temporal = VAETemporal(TEMPORAL)
    source = FrameSource(clips)
    probe = source.clips(32, torch.Generator().manual_seed(seed))
    spread = vae.encode(probe, False, None).std()

    def loss_function(step: int, generator: torch.Generator) -> Tensor:
        video = source.clips(8, generator)  # (B, 3, F, H, W)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(video, False, None).float()
            posterior = temporal.encode(latents)
            mean, std = posterior.mean.float(), posterior.std.float()
            noise = torch.randn(mean.shape, generator=generator)
            output = temporal.decode(mean + std * noise, FRAMES).float()
            loss = reconstruction_loss(output / spread, latents / spread, 1.0)
            divergence = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).mean()
            if step >= PIXEL_LOSS_FROM * recipe.steps:
                frames = torch.randperm(FRAMES, generator=generator)[:2]
                decoded = vae.decode(output[:, :, frames]).float()
                loss = 0.5 * loss + 2 * reconstruction_loss(decoded, video[:, :, frames])
        return loss + 1e-4 * divergence

    Trainer("temporal", folder, temporal, recipe, workers, seed).fit(loss_function)
    return temporal


@torch.no_grad()
def assemble_vae(vae: SpatialVAE, temporal: VAETemporal, clips: Path, seed: int) -> VideoAutoencoderPipeline:
    """Join both halves and normalize the latents of the training clips to mean 0 and deviation 1 per channel."""
    source = FrameSource(clips)
    batches = [source.clips(16, torch.Generator().manual_seed(seed + i)) for i in range(16)]
    z = torch.cat([temporal.encode(vae.encode(video, False, None)).mode() for video in batches])
    config = VideoAutoencoderConfig(
        autoencoder_kl=AUTOENCODER_KL,
        temporal=TEMPORAL,
        micro_batch_size=17,
        shift=tuple(z.mean((0, 2, 3, 4)).tolist()),
        scale=tuple(z.std((0, 2, 3, 4)).tolist()),
    )
    pipeline = VideoAutoencoderPipeline(config)
    pipeline.spatial_vae.load_state_dict(vae.state_dict())
    pipeline.temporal_vae.load_state_dict(temporal.state_dict())
    return pipeline.eval().requires_grad_(False)
