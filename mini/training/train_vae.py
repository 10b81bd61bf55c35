"""Stages of the autoencoder: 2-D ('vae'), along time on its latents ('temporal'), with both decoders ('joint').

Stage 'decoders' trains the decoders alone, for latents that a transformer has learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mini.training.trainer import Recipe, Step, Trainer, digest
from mini.training.workers import Workers
from mini.world.clips import MOST_FIGURES, make_chunk
from mini.world.paths import FRAMES, SIZE
from opensora.models.vae.vae import SpatialVAE, VideoAutoencoderConfig, VideoAutoencoderPipeline
from opensora.models.vae.vae_temporal import TemporalVAEConfig

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
    num_res_blocks=2,
    channel_multipliers=(1, 2, 2),
    temporal_downsample=(True, True),
    num_groups=8,
)
CROP = 64
CROPS, IMAGES, CLIPS = 12, 4, 4  # in a batch of a process
CROP_SHARE = 0.6  # of the training looks only at the surroundings of the figure, where all the detail is
PIXEL_LOSS_FROM = 0.5  # share of the temporal training after which the decoded pixels count, too
FIGURE_WEIGHT = 4.0  # of pixels within half a crop of a figure, in the decoders' loss
MOTION_WEIGHT = 12.0  # of those pixels that change from frame to frame by more than MOVED of the range of colors
MOVED = 0.1
CHUNKS = 2000
IMAGE_SHARE = 0.3  # of the steps of what works along time see single frames

SPATIAL_RECIPE = Recipe(steps=4000, adam_lr=2e-3, muon_lr=4e-3, ema=0.998, decay_from=0.3, weight_decay=0.0)
TEMPORAL_RECIPE = Recipe(steps=2500, adam_lr=2e-3, muon_lr=4e-3, ema=0.998, decay_from=0.3, weight_decay=0.0)
DECODER_RECIPE = Recipe(steps=1500, adam_lr=5e-4, muon_lr=1e-3, ema=0.995, decay_from=0.2, weight_decay=0.0)

# (numbers of chunks, pixel frames, generator) -> latents, and what is added to the loss for them
Encode = Callable[[Tensor, int, torch.Generator], tuple[Tensor, Tensor | float]]


def to_video(frames: Tensor) -> Tensor:
    """Convert uint8 (..., H, W, 3) to float (..., 3, H, W) in [-1, 1]."""
    return frames.movedim(-1, -3).contiguous().float() / 127.5 - 1


class Chunks:
    """This process's share of the rendered chunks, in memory on its device.

    Attributes:
        frames: (N, FRAMES, H, W, 3) uint8.
        centers: (N, FRAMES, MOST_FIGURES, 2), where the figures are, x and y in pixels, the main one first.
    """

    def __init__(self, count: int, seed: int, workers: Workers):
        self.count, self.seed = count, seed
        indices = workers.share(count)
        self.frames = torch.empty(len(indices), FRAMES, *SIZE, 3, dtype=torch.uint8, device=workers.device)
        self.centers = torch.empty(len(indices), FRAMES, MOST_FIGURES, 2, device=workers.device)
        start = 0
        for frames, centers in workers.render(partial(make_chunk, seed), indices, 16, "chunks"):
            part = slice(start, start + len(frames))
            self.frames[part], self.centers[part] = frames.to(workers.device), centers.to(workers.device)
            start = part.stop

    def __str__(self) -> str:
        return f"{self.count} chunks of seed {self.seed}"

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the numbers (count,) of chunks."""
        return torch.randint(len(self.frames), (count,), generator=generator, device=generator.device)

    def draw_crowded(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the numbers (count,) of chunks, four times as often those of two figures, nine times those of three."""
        figures = self.centers[:, 0, :, 0].isfinite().sum(1)
        return torch.multinomial(figures.float().square(), count, replacement=True, generator=generator)

    def images(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` whole frames (count, 3, H, W)."""
        return to_video(self.frames[self.draw(count, generator), self._frames(count, generator)])

    def crops(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` crops (count, 3, CROP, CROP) whose middle is near the main figure."""
        chunk, frame = self.draw(count, generator), self._frames(count, generator)
        shift = torch.randint(-CROP // 2, CROP // 2 + 1, (count, 2), generator=generator, device=generator.device)
        corners = (self.centers[chunk, frame, 0].round().long() - CROP // 2 + shift).clamp_min(0)
        steps = torch.arange(CROP, device=generator.device)
        rows = corners[:, 1].clamp_max(SIZE[0] - CROP)[:, None, None] + steps[:, None]
        columns = corners[:, 0].clamp_max(SIZE[1] - CROP)[:, None, None] + steps
        return to_video(self.frames[chunk[:, None, None], frame[:, None, None], rows, columns])

    def weights(self, chunks: Tensor, frames: slice, stride: int = 1) -> Tensor:
        """Return how much every stride-th pixel counts, (N, 1, F, H / stride, W / stride).

        More near a figure, most where it moves: there the latents of four frames in one have the least to say.
        """
        x, y = self.centers[chunks, frames, :, :, None, None].unbind(3)
        columns, rows = (torch.arange(0.5 * stride, side, stride, device=x.device) for side in reversed(SIZE))
        distance = torch.maximum((columns - x).abs(), (rows[:, None] - y).abs())
        is_near = (distance < CROP / 2).any(2)  # of a figure that there is not, the distance is NaN
        moves = F.max_pool2d(self._moves(chunks)[:, frames].float(), stride).bool()
        weights = torch.where(is_near, FIGURE_WEIGHT, 1.0)
        return torch.where(is_near & moves, MOTION_WEIGHT, weights)[:, None]

    def _moves(self, chunks: Tensor) -> Tensor:
        """Return (N, FRAMES, H, W), whether a pixel is another in the frame before or after."""
        frames = self.frames[chunks]
        low, high = frames[:, :-1], frames[:, 1:]
        changes = (torch.maximum(low, high) - torch.minimum(low, high)).amax(-1) > round(255 * MOVED)
        return F.pad(changes, (0, 0, 0, 0, 1, 0)) | F.pad(changes, (0, 0, 0, 0, 0, 1))

    def videos(self, chunks: Tensor) -> Tensor:
        """Return whole chunks (N, 3, FRAMES, H, W)."""
        return to_video(self.frames[chunks]).movedim(1, 2)

    def _frames(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(FRAMES, (count,), generator=generator, device=generator.device)


def reconstruction_loss(
    output: Tensor, target: Tensor, square_weight: float = 2.0, weights: Tensor | float = 1.0
) -> Tensor:
    """Return the mean absolute error plus a weighted mean squared error; `weights` are those of the pixels."""
    error = output - target
    return (weights * (error.abs() + square_weight * error.square())).mean()


def with_noise(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from normal distributions."""
    return mean + std * torch.randn(mean.shape, generator=generator, device=mean.device)


def divergence(mean: Tensor, std: Tensor) -> Tensor:
    """Return the mean Kullback-Leibler divergence of normal distributions from the standard one."""
    return 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).mean()


def new_autoencoder(seed: int) -> VideoAutoencoderPipeline:
    """Return an autoencoder that has learned nothing."""
    torch.manual_seed(seed)  # all processes start with the same weights
    config = VideoAutoencoderConfig(autoencoder_kl=AUTOENCODER_KL, temporal=TEMPORAL, micro_batch_size=17)
    return VideoAutoencoderPipeline(config)


def train_spatial(trainer: Trainer, vae: SpatialVAE, chunks: Chunks) -> None:
    """Train the 2-D autoencoder."""
    workers = trainer.workers
    vae.requires_grad_(True)

    def loss_function(step: Step) -> Tensor:
        draw, count = (chunks.crops, CROPS) if step.progress < CROP_SHARE else (chunks.images, IMAGES)
        images = draw(count * workers.small_load, step.generator)
        with workers.autocast():
            posterior = vae.module.encode(images).latent_dist
            mean, std = posterior.mean.float(), posterior.std.float()
            output = vae.module.decode(with_noise(mean, std, step.generator)).sample.float()
        return reconstruction_loss(output, images) + 1e-4 * divergence(mean, std)

    trainer.fit(vae, loss_function, str(chunks))
    vae.requires_grad_(False)


@torch.no_grad()
def encode_frames(vae: SpatialVAE, chunks: Chunks, workers: Workers) -> Tensor:
    """Return the 2-D latents (N, 4, FRAMES, H / 8, W / 8) of all chunks."""
    parts = []
    for part in torch.arange(len(chunks.frames), device=workers.device).split(2 * workers.load):
        with workers.autocast():
            parts.append(vae.encode(chunks.videos(part), False, None).float())
    return torch.cat(parts)


def train_temporal(trainer: Trainer, vae: VideoAutoencoderPipeline, chunks: Chunks, spatial_latents: Tensor) -> None:
    """Train the temporal autoencoder on the frozen 2-D latents, later also through the frozen 2-D decoder."""
    workers, spatial, temporal = trainer.workers, vae.spatial_vae, vae.temporal_vae
    temporal.requires_grad_(True)
    spread = spatial_latents.std()

    def loss_function(step: Step) -> Tensor:
        drawn = chunks.draw(CLIPS * workers.load, step.generator)
        count = 1 if step.shared.random() < IMAGE_SHARE else FRAMES
        latents = spatial_latents[drawn, :, :count]
        with workers.autocast():
            posterior = temporal.encode(latents)
            mean, std = posterior.mean.float(), posterior.std.float()
            output = temporal.decode(with_noise(mean, std, step.generator), count).float()
            loss = reconstruction_loss(output / spread, latents / spread, 1.0)
            if step.progress >= PIXEL_LOSS_FROM:
                frames = step.shared.permutation(count)[:2].tolist()
                decoded = spatial.decode(output[:, :, frames]).float()
                target = to_video(chunks.frames[drawn][:, frames]).movedim(1, 2)
                loss = 0.5 * loss + 2 * reconstruction_loss(decoded, target)
        return loss + 1e-4 * divergence(mean, std)

    trainer.fit(temporal, loss_function, f"{chunks}, encoded by {digest(spatial)}")
    temporal.requires_grad_(False)
    normalize_latents(vae, spatial_latents[:256], workers)


@torch.no_grad()
def normalize_latents(vae: VideoAutoencoderPipeline, spatial_latents: Tensor, workers: Workers) -> None:
    """Give the latents of `spatial_latents`, as all processes have them, mean 0 and deviation 1 per channel."""
    latents = torch.cat([vae.temporal_vae.encode(part).mode() for part in spatial_latents.split(16)])
    mean, square = latents.mean((0, 2, 3, 4)), latents.square().mean((0, 2, 3, 4))
    workers.average([mean, square])
    deviation = (square - mean**2).sqrt()
    vae.config = replace(vae.config, shift=tuple(mean.tolist()), scale=tuple(deviation.tolist()))
    vae.shift.copy_(mean.view_as(vae.shift))
    vae.scale.copy_(deviation.view_as(vae.scale))


def train_joint(trainer: Trainer, vae: VideoAutoencoderPipeline, chunks: Chunks, spatial_latents: Tensor) -> None:
    """Train the temporal autoencoder and the 2-D decoder together: what counts in the pixels shapes the latents, too.

    For clips that come back wrong, better latents exist close by (a tenth of their deviation); this teaches the
    encoder to find them. The transformer must be trained after it.
    """
    temporal = vae.temporal_vae

    def encode(drawn: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        posterior = temporal.encode(spatial_latents[drawn, :, :count])
        mean, std = posterior.mean.float(), posterior.std.float()
        return with_noise(mean, std, generator), 1e-4 * divergence(mean, std)

    temporal.requires_grad_(True)
    _train_decoders(trainer, vae, chunks, spatial_latents, encode)
    normalize_latents(vae, spatial_latents[:256], trainer.workers)


def train_decoders(trainer: Trainer, vae: VideoAutoencoderPipeline, chunks: Chunks, spatial_latents: Tensor) -> None:
    """Train both decoders on what the frozen encoders make of chunks and of their first frames.

    Latents stay as they are, so a transformer that was trained on them does, too.
    """
    temporal = vae.temporal_vae
    with torch.no_grad():
        videos = torch.cat([temporal.encode(part).mode() for part in spatial_latents.split(16)])
        images = torch.cat([temporal.encode(part[:, :, :1]).mode() for part in spatial_latents.split(16)])

    def encode(drawn: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, float]:
        return (images if count == 1 else videos)[drawn], 0.0

    _train_decoders(trainer, vae, chunks, spatial_latents, encode)


def _train_decoders(
    trainer: Trainer, vae: VideoAutoencoderPipeline, chunks: Chunks, spatial_latents: Tensor, encode: Encode
) -> None:
    """Train the decoders and what `encode` trains.

    Only here does the 2-D decoder see what the temporal one gives it. The temporal decoder learns from the 2-D latents
    of all frames, and both from the pixels of one: more of them would cost more than they teach.
    """
    workers, spatial, temporal = trainer.workers, vae.spatial_vae, vae.temporal_vae
    spread = spatial_latents.std()
    for part in (temporal.post_quant_conv, temporal.decoder, spatial.module.post_quant_conv, spatial.module.decoder):
        part.requires_grad_(True)

    def loss_function(step: Step) -> Tensor:
        # Figures that hide each other are what the decoders return wrong most often.
        drawn = chunks.draw_crowded(CLIPS * workers.small_load, step.generator)
        count = 1 if step.shared.random() < IMAGE_SHARE else FRAMES
        time = int(step.shared.integers(count))
        with workers.autocast():
            latents, penalty = encode(drawn, count, step.generator)
            # Whole frames: in a window, the norms' statistics would be others than when a video is decoded.
            features = temporal.decode(latents, count)
            output = spatial.decode(features[:, :, time : time + 1]).float()
        features, target = features.float() / spread, spatial_latents[drawn, :, :count] / spread
        weights = chunks.weights(drawn, slice(count), SIZE[0] // target.shape[-2])
        in_latents = reconstruction_loss(features, target, 1.0, weights)
        frame = to_video(chunks.frames[drawn, time])[:, :, None]
        in_pixels = reconstruction_loss(output, frame, weights=chunks.weights(drawn, slice(time, time + 1)))
        return 0.5 * in_latents + 2 * in_pixels + penalty

    # Without shift and scale, which are computed anew when a killed run goes on, on a GPU with other rounding.
    trainer.fit(nn.ModuleList((spatial, temporal)), loss_function, str(chunks))
    vae.requires_grad_(False)
