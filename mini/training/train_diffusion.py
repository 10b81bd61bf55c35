"""Stage 'diffusion': train STDiT3 and the text encoder together on encoded clips of several sizes and lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mini.training.buckets import BUCKETS, Bucket, pick_bucket
from mini.training.frame_masks import random_frame_masks
from mini.training.text import MAX_TOKENS, WIDTH, build_text_encoder, build_tokenizer
from mini.training.trainer import Recipe, Trainer
from mini.training.workers import Workers
from mini.world.paths import SIZE
from opensora.models.stdit import STDiT3, STDiT3Config
from opensora.pipeline import prepare_multi_resolution_info
from opensora.schedulers.rf import timestep_transform
from opensora.schedulers.rf.frame_mask import add_noise

FPS = 8.0
CAPTION_DROPOUT = 0.1
LOGIT_NORMAL_SHARE = 0.6  # of the training times; the others are uniform
LOGIT_NORMAL_MEAN = -0.3  # before the shift by size, which moves it towards the noise
BASE_RESOLUTION = SIZE[0] * SIZE[1]  # the mini model's "image of 512 x 512"
MASKED_SHARE = 0.25  # of the steps train with frames given

RECIPE = Recipe(steps=9400, adam_lr=1e-3, muon_lr=1.5e-3, warmup=100, decay_from=0.5, ema=0.997)
CONFIG = STDiT3Config(
    hidden_size=128,
    depth=4,
    num_heads=4,
    caption_channels=WIDTH,
    model_max_length=MAX_TOKENS,
    input_sq_size=512,
)


class TextToVelocity(nn.Module):
    """The two networks that learn together."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder()
        self.transformer = STDiT3(CONFIG)
        initialize(self.transformer)

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        ids: Tensor,
        mask: Tensor,
        drop: Tensor,
        size: Mapping[str, Tensor],
        generated: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity (B, 4, T, H, W) at times `t` (B,); captions where `drop` (B,) is True are left out.

        Args:
            size: `height`, `width` and `fps` of the clips, (1,) each.
            generated: (B, T) bool, False for frames that are given clean.
        """
        y = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        null = self.transformer.y_embedder.y_embedding
        y = torch.where(drop[:, None, None], null.to(y.dtype), y)[:, None]
        out = self.transformer(z, t, y, mask=mask, x_mask=generated, **size)
        return out[:, : z.shape[1]]


def initialize(model: STDiT3) -> None:
    """Initialize as upstream's training does: blocks that change little, an output of zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for embedder in (model.t_embedder, model.fps_embedder):
        for layer in (embedder.mlp[0], embedder.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
    nn.init.normal_(model.t_block[1].weight, std=0.02)
    for block in (*model.spatial_blocks, *model.temporal_blocks):
        nn.init.zeros_(block.cross_attn.proj.weight)
    nn.init.zeros_(model.final_layer.linear.weight)


def sample_times(count: int, bucket: Bucket, generator: torch.Generator) -> Tensor:
    """Draw training times (count,), 0..1000, shifted by the size of the clip as the sampler shifts its own."""
    uniform = torch.rand(count, generator=generator)
    logit_normal = torch.sigmoid(torch.randn(count, generator=generator) + LOGIT_NORMAL_MEAN)
    u = torch.where(torch.rand(count, generator=generator) < LOGIT_NORMAL_SHARE, logit_normal, uniform)
    return timestep_transform(u * 1000, size_info(bucket), base_resolution=BASE_RESOLUTION)


def size_info(bucket: Bucket) -> dict[str, Tensor]:
    """Return what the model and the timestep transform get about the clips of a bucket, (1,) each."""
    return prepare_multi_resolution_info("STDiT2", 1, bucket.size, bucket.frames, FPS, "cpu", torch.float32)


class LatentSource:
    """Batches of encoded clips and their tokenized captions, per bucket."""

    def __init__(self, folder: Path):
        tokenizer = build_tokenizer()
        self.latents: dict[Bucket, Tensor] = {}
        self.tokens: dict[Bucket, tuple[Tensor, Tensor]] = {}
        for bucket in BUCKETS:
            self.latents[bucket] = torch.from_numpy(np.load(folder / str(bucket) / "latents.npy"))
            captions = json.loads((folder / str(bucket) / "captions.json").read_text())
            tokens = tokenizer(
                captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
            )
            self.tokens[bucket] = (tokens["input_ids"], tokens["attention_mask"])

    def draw(self, bucket: Bucket, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw latents (count, 4, T, H, W) float32, token ids and token mask (count, MAX_TOKENS)."""
        chosen = torch.randint(len(self.latents[bucket]), (count,), generator=generator)
        ids, mask = self.tokens[bucket]
        return self.latents[bucket][chosen].float(), ids[chosen], mask[chosen]


def train_diffusion(latents_folder: Path, folder: Path, workers: Workers, recipe: Recipe, seed: int) -> TextToVelocity:
    """Train on the encoded clips; all processes take the same bucket in a step, so that none waits for another."""
    torch.manual_seed(seed)
    networks = TextToVelocity()
    # One graph for each kind of block, with and without a mask, with one frame and with several.
    torch._dynamo.config.recompile_limit = 32
    for block in (*networks.transformer.spatial_blocks, *networks.transformer.temporal_blocks):
        block.compile(dynamic=True)
    source = LatentSource(latents_folder)

    def loss_function(step: int, generator: torch.Generator) -> Tensor:
        shared = np.random.default_rng((seed, step))  # the same in all processes
        bucket, is_masked = pick_bucket(shared), shared.random() < MASKED_SHARE
        clean, ids, token_mask = source.draw(bucket, bucket.batch, generator)
        noise = torch.randn(clean.shape, generator=generator)
        t = sample_times(len(clean), bucket, generator)
        drop = torch.rand(len(clean), generator=generator) < CAPTION_DROPOUT
        generated = random_frame_masks(len(clean), clean.shape[2], generator) if is_masked else None
        noisy = add_noise(clean, noise, t)
        if generated is not None:
            noisy = torch.where(generated[:, None, :, None, None], noisy, clean)
        # On sequences of a few tokens the plain formula is twice as fast as the fused kernel's backward pass.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            velocity = networks(noisy, t, ids, token_mask, drop, size_info(bucket), generated)
        squares = (velocity.float() - (clean - noise)).square().mean((1, 3, 4))  # (B, T)
        return squares.mean() if generated is None else squares[generated].mean()

    Trainer("diffusion", folder, networks, recipe, workers, seed).fit(loss_function)
    return networks
