"""Stages 'latents' and 'diffusion': encode clips once, then train STDiT3 and the text encoder together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from opensora.mini.clips import is_finished, make_caption, make_clip, mark_finished
from opensora.mini.shapes import FRAMES, SIZE
from opensora.mini.text import MAX_TOKENS, WIDTH, build_text_encoder, build_tokenizer
from opensora.mini.train_vae import to_video
from opensora.mini.trainer import Recipe, Trainer
from opensora.mini.workers import Workers
from opensora.models.stdit import STDiT3, STDiT3Config
from opensora.models.vae import VideoAutoencoderPipeline
from opensora.schedulers.rf.timesteps import add_noise

FPS = 8.0
CAPTION_DROPOUT = 0.1
LOGIT_NORMAL_SHARE = 0.6  # of the training times; the others are uniform
LOGIT_NORMAL_MEAN = 0.3
ENCODE_BATCH = 16

RECIPE = Recipe(steps=4500, adam_lr=1e-3, muon_lr=1.5e-3, warmup=100, decay_from=0.5, ema=0.997)
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

    def forward(self, z: Tensor, t: Tensor, ids: Tensor, mask: Tensor, drop: Tensor) -> Tensor:
        """Velocity (B, 4, T, H, W) at times ``t`` (B,); captions where ``drop`` (B,) is True are left out."""
        y = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        null = self.transformer.y_embedder.y_embedding
        y = torch.where(drop[:, None, None], null.to(y.dtype), y)[:, None]
        size = torch.full((1,), float(SIZE))
        out = self.transformer(z, t, y, mask=mask, fps=torch.full((1,), FPS), height=size, width=size)
        return out[:, : z.shape[1]]


def initialize(model: STDiT3) -> None:
    """Start as upstream's training does: blocks that change little, an output of zero."""
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


@torch.no_grad()
def encode_clips(vae: VideoAutoencoderPipeline, folder: Path, count: int, seed: int, workers: Workers) -> None:
    """Write ``latents.npy`` (count, 4, T, H, W) float16 and ``captions.json``; does nothing when they exist."""
    facts = {"seed": seed, "count": count}
    if is_finished(folder, facts):
        return
    shape = (count, vae.out_channels, *vae.get_latent_size([FRAMES, SIZE, SIZE]))
    if workers.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(folder / "latents.npy", "w+", np.float16, shape)
    workers.wait()
    latents = np.load(folder / "latents.npy", mmap_mode="r+")
    starts = range(ENCODE_BATCH * workers.rank, count, ENCODE_BATCH * workers.count)
    for start in tqdm(starts, desc="latents", disable=not workers.is_main, mininterval=5):
        indices = range(start, min(start + ENCODE_BATCH, count))
        video = to_video(np.stack([make_clip(seed, i).frames for i in indices])).movedim(1, 2)
        with torch.autocast("cpu", torch.bfloat16):
            latents[list(indices)] = vae.encode(video, sample_posterior=False).numpy()
    latents.flush()
    workers.wait()
    if workers.is_main:
        (folder / "captions.json").write_text(json.dumps([make_caption(seed, i) for i in range(count)]))
        mark_finished(folder, facts)
    workers.wait()


def sample_times(count: int, generator: torch.Generator) -> Tensor:
    """Training times in (0, 1), denser in the middle, where the shapes are decided."""
    uniform = torch.rand(count, generator=generator)
    logit_normal = torch.sigmoid(torch.randn(count, generator=generator) + LOGIT_NORMAL_MEAN)
    return torch.where(torch.rand(count, generator=generator) < LOGIT_NORMAL_SHARE, logit_normal, uniform)


def train_diffusion(
    latents_folder: Path, folder: Path, workers: Workers, recipe: Recipe, seed: int, batch: int = 32
) -> TextToVelocity:
    """Train on the encoded clips; ``batch`` clips per process and step."""
    torch.manual_seed(seed)
    networks = TextToVelocity()
    for block in (*networks.transformer.spatial_blocks, *networks.transformer.temporal_blocks):
        block.compile()
    latents = torch.from_numpy(np.load(latents_folder / "latents.npy")).float()
    captions = json.loads((latents_folder / "captions.json").read_text())
    tokens = build_tokenizer()(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    )

    def loss_function(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=generator)
        t = sample_times(batch, generator) * 1000
        drop = torch.rand(batch, generator=generator) < CAPTION_DROPOUT
        noisy = add_noise(clean, noise, t)
        # On sequences of a few tokens the plain formula is twice as fast as the fused kernel's backward pass.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            velocity = networks(noisy, t, tokens["input_ids"][chosen], tokens["attention_mask"][chosen], drop)
        return F.mse_loss(velocity.float(), clean - noise)

    Trainer("diffusion", folder, networks, recipe, workers, seed).fit(loss_function)
    return networks
