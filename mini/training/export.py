"""Write the trained mini model in the layout that the sampler loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import T5EncoderModel

from mini.training.buckets import BUCKETS
from mini.training.text import build_tokenizer
from mini.world.captions import caption_pattern, words_by_kind
from opensora.config.trained_on import FILE
from opensora.models.stdit import STDiT3
from opensora.models.vae import VideoAutoencoderPipeline

STORAGE_DTYPE = torch.bfloat16  # half the size; the samples do not show it


def export(vae: VideoAutoencoderPipeline, text_encoder: T5EncoderModel, transformer: STDiT3, folder: Path) -> int:
    """Write `vae`, `transformer` and `text_encoder` below `folder` and return the bytes of the weights."""
    vae.to(STORAGE_DTYPE).save_pretrained(folder / "vae")
    transformer.to(STORAGE_DTYPE).save_pretrained(folder / "transformer")
    text_encoder.to(STORAGE_DTYPE).save_pretrained(folder / "text_encoder")
    (folder / "transformer" / FILE).write_text(json.dumps(trained_on(), indent=1) + "\n", encoding="utf-8")
    build_tokenizer().save_pretrained(folder / "text_encoder")
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def trained_on() -> dict[str, Any]:
    """Return what a sampler says about the model: the entries of `TrainedOn`."""
    return {
        "name": "opensora-mini",
        "about": "videos of circles, squares, triangles, stars, rings, crosses and hearts before a background",
        "words": words_by_kind(),
        "captions": caption_pattern(),
        "examples": [
            "a large red circle moving slowly to the right",
            "a spinning white star at the top left on a navy background",
            "a still red ring and a still cyan heart and a blue square moving fast up on a gray gradient background",
            "a still red square and a yellow star moving fast to the left behind it",
            "a growing yellow triangle on a drifting teal striped background",
            "a still green cross on a brown dotted background while the camera pans left",
        ],
        "videos": [[bucket.frames, *bucket.size] for bucket in BUCKETS],
    }
