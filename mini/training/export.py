"""Writing the trained mini model in the layout that the sampler loads."""

from __future__ import annotations

from pathlib import Path

import torch

from mini.training.text import build_tokenizer
from mini.training.train_diffusion import TextToVelocity
from opensora.models.vae import VideoAutoencoderPipeline

STORAGE_DTYPE = torch.bfloat16  # half the size; the samples do not show it


def export(vae: VideoAutoencoderPipeline, networks: TextToVelocity, folder: Path) -> int:
    """Write ``vae``, ``transformer`` and ``text_encoder`` below ``folder`` and return the bytes of the weights."""
    vae.to(STORAGE_DTYPE).save_pretrained(folder / "vae")
    networks.transformer.to(STORAGE_DTYPE).save_pretrained(folder / "transformer")
    networks.text_encoder.to(STORAGE_DTYPE).save_pretrained(folder / "text_encoder")
    build_tokenizer().save_pretrained(folder / "text_encoder")
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
