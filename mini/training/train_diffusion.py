"""Stage 'diffusion': train STDiT3 and the text encoder together on encoded clips of several sizes and lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import T5EncoderModel

from mini.training.buckets import BUCKETS, Bucket, pick_bucket
from mini.training.frame_masks import random_frame_masks
from mini.training.text import MAX_TOKENS, WIDTH, tokenize
from mini.training.trainer import Recipe, Step, Trainer
from mini.world.clips import FINISHED
from mini.world.paths import SIZE
from opensora.models.stdit import STDiT3, STDiT3Config
from opensora.pipeline import prepare_multi_resolution_info
from opensora.schedulers.rf import timestep_transform
from opensora.schedulers.rf.frame_mask import add_noise

FPS = 8.0
CAPTION_DROPOUT = 0.1
LOGIT_NORMAL_SHARE = 0.6  # of the training times; the others are uniform
SHIFTED_SHARE = 0.5  # of the training times; with all of them shifted, few are below 500, where outlines are made
BASE_RESOLUTION = SIZE[0] * SIZE[1]  # the mini model's "image of 512 x 512"
MASKED_SHARE = 0.25  # of a batch has frames given
DIFFERENT_MASKS = 16  # in a batch

RECIPE = Recipe(steps=15000, adam_lr=2e-3, muon_lr=3e-3, warmup=100, decay_from=0.4, ema=0.998)
CONFIG = STDiT3Config(
    patch_size=(1, 4, 4),  # a patch is as large as the step between places
    hidden_size=160,
    depth=8,
    num_heads=5,
    caption_channels=WIDTH,
    model_max_length=MAX_TOKENS,
    input_sq_size=512,
)


class TextToVelocity(nn.Module):
    """The two networks that learn together."""

    def __init__(self, text_encoder: T5EncoderModel, transformer: STDiT3) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.transformer = transformer

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        ids: Tensor,
        mask: Tensor,
        drop: Tensor,
        generated: Tensor,
        size: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the velocity (B, 4, T, H, W) at times `t` (B,); captions where `drop` (B,) is True are left out.

        Args:
            mask: (B, L) of the text, on the CPU.
            generated: (B, T) bool, False for frames that are given clean.
            size: `height`, `width` and `fps` of the clips, (1,) each.
        """
        device_mask = mask.to(ids.device, non_blocking=True)
        y = self.text_encoder(input_ids=ids, attention_mask=device_mask).last_hidden_state
        null = self.transformer.y_embedder.y_embedding
        y = torch.where(drop[:, None, None], null.to(y.dtype), y)[:, None]
        out = self.transformer(z, t, y, mask=mask, x_mask=generated, **size)
        return out[:, : z.shape[1]]


def new_transformer(seed: int) -> STDiT3:
    """Return a transformer that starts as upstream's training does: blocks that change little, an output of zero."""
    torch.manual_seed(seed)  # all processes start with the same weights
    model = STDiT3(CONFIG)
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
    return model


def load_transformer(folder: Path) -> STDiT3:
    """Return the transformer in `folder` to be trained further; one that is loaded to sample has no gradients.

    Raises:
        WeightsError: the weights are missing or damaged.
    """
    model = STDiT3(CONFIG)
    model.load_state_dict(STDiT3.from_pretrained(folder, dtype=torch.float32).state_dict())
    return model


def sample_times(count: int, size: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
    """Draw training times (count,), 0..1000; some are shifted by the size of the clip, as the sampler's are."""
    device = generator.device
    uniform = torch.rand(count, generator=generator, device=device)
    logit_normal = torch.sigmoid(torch.randn(count, generator=generator, device=device))
    is_normal = torch.rand(count, generator=generator, device=device) < LOGIT_NORMAL_SHARE
    plain = torch.where(is_normal, logit_normal, uniform) * 1000
    shifted = timestep_transform(plain, size, base_resolution=BASE_RESOLUTION)
    return torch.where(torch.rand(count, generator=generator, device=device) < SHIFTED_SHARE, shifted, plain)


def size_info(bucket: Bucket, device: str) -> dict[str, Tensor]:
    """Return what the model and the timestep transform get about the clips of a bucket, (1,) each."""
    return prepare_multi_resolution_info("STDiT2", 1, bucket.size, bucket.frames, FPS, device, torch.float32)


def draw_masks(count: int, frames: int, rng: np.random.Generator) -> Tensor:
    """Draw which frames are to be generated, (count, frames) bool; in the first clips some, in most clips all."""
    masks = torch.ones(count, frames, dtype=torch.bool)
    masked = round(MASKED_SHARE * count)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    different = random_frame_masks(min(masked, DIFFERENT_MASKS), frames, generator)
    masks[:masked] = different[torch.arange(masked) % max(1, len(different))]
    return masks


class LatentSource:
    """Batches of encoded clips and their tokenized captions, per bucket.

    Attributes:
        name: says which clips, and what encoded them.
    """

    def __init__(self, folder: Path, device: str):
        self.device = device
        self.name = ", ".join((folder / str(bucket) / FINISHED).read_text() for bucket in BUCKETS)
        self.latents: dict[Bucket, Tensor] = {}
        self.tokens: dict[Bucket, tuple[Tensor, Tensor]] = {}
        for bucket in BUCKETS:
            self.latents[bucket] = torch.from_numpy(np.load(folder / str(bucket) / "latents.npy")).to(device)
            self.tokens[bucket] = tokenize(json.loads((folder / str(bucket) / "captions.json").read_text()))

    def draw(self, bucket: Bucket, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw latents (count, 4, T, H, W) float32 and token ids (count, MAX_TOKENS), and their mask on the CPU."""
        chosen = torch.from_numpy(rng.integers(len(self.latents[bucket]), size=count))
        ids, mask = self.tokens[bucket]
        latents = self.latents[bucket][chosen.to(self.device)].float()
        return latents, ids[chosen].to(self.device, non_blocking=True), mask[chosen]


def train_diffusion(
    trainer: Trainer, networks: TextToVelocity, source: LatentSource, compiled: bool = False
) -> list[float]:
    """Train on the encoded clips and return the losses.

    All processes take the same bucket in a step, so that none waits for another.

    Args:
        compiled: compile the blocks, which takes minutes and makes a step twice as fast on CPU cores.
    """
    if compiled:
        networks.transformer.compile_blocks()
    workers, device = trainer.workers, trainer.workers.device
    # On a CPU and sequences of a few tokens, the plain formula is twice as fast as the fused kernel's backward pass.
    attention = partial(sdpa_kernel, SDPBackend.MATH) if device == "cpu" else nullcontext
    sizes = {bucket: size_info(bucket, device) for bucket in BUCKETS}

    def loss_function(step: Step) -> Tensor:
        bucket = pick_bucket(step.shared)
        rng = np.random.default_rng((trainer.seed, step.number, workers.rank + 1))  # not the shared stream
        clean, ids, token_mask = source.draw(bucket, bucket.batch * workers.load, rng)
        count = len(clean)
        noise = torch.randn(clean.shape, generator=step.generator, device=device)
        t = sample_times(count, sizes[bucket], step.generator)
        drop = torch.rand(count, generator=step.generator, device=device) < CAPTION_DROPOUT
        generated = draw_masks(count, clean.shape[2], rng).to(device, non_blocking=True)
        noisy = torch.where(generated[:, None, :, None, None], add_noise(clean, noise, t), clean)
        with workers.autocast(), attention():
            velocity = networks(noisy, t, ids, token_mask, drop, generated, sizes[bucket])
        squares = (velocity.float() - (clean - noise)).square().mean((1, 3, 4))  # (B, T)
        return (squares * generated).sum() / generated.sum()

    return trainer.fit(networks, loss_function, source.name)
