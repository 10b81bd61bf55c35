"""The bundled model's reference video, to compare others with: versions that do not go together sample badly.

After the model has been trained again, `python -m opensora.cli.mini_reference` writes the reference anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from adacache.atomic import atomic_path
from opensora.cli.arguments import OneLineParser
from opensora.config.loading import load_config
from opensora.device import limit_threads
from opensora.files import REPO_ROOT
from opensora.pipeline import SamplingPipeline

CONFIG = "configs/mini/sample.py"
MODEL_FOLDER = REPO_ROOT / "assets/opensora-mini"
REFERENCE = MODEL_FOLDER / "doctor.safetensors"
PROMPT = "a red circle moving fast to the right on a gray background"
SEED = 1
STEPS = 8  # with fewer steps, the guided latents overshoot, and pixels are black or white
_BLOCK = 16  # pixels; the reference holds means over squares of this side, as whole frames would be large
_NOTE = "about"  # a single entry: the file format does not keep the order of several

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MiniVideo:
    """The video of `PROMPT`: latents (4, T, H', W') float32, frames (F, H, W, 3) uint8."""

    latents: Tensor
    frames: np.ndarray


@dataclass(frozen=True)
class Reference:
    """What a sampled `MiniVideo` is compared with.

    Attributes:
        latents: (4, T, H', W') float32.
        shades: mean gray levels over blocks of the frames, (F, H / 16, W / 16, 3) float32.
        checksums: sha256 of every weight file of the mini model by its path within the model's folder.
    """

    latents: Tensor
    shades: Tensor
    checksums: dict[str, str]


def sample_mini(device: str) -> MiniVideo:
    """Sample `PROMPT` with every step computed, in float32."""
    transformers_logging.disable_progress_bar()
    flags = {"num_sampling_steps": STEPS, "dtype": "fp32", "device": device, "verbose": 0}
    pipe = SamplingPipeline.from_config(load_config(CONFIG, flags))
    limit_threads(pipe.model)
    output = pipe([PROMPT], seed=SEED, progress=False)
    return MiniVideo(output.latents[0].cpu().float(), output.videos[0])


def block_means(frames: np.ndarray) -> Tensor:
    """Average frames (F, H, W, 3) uint8 over blocks, into (F, H / 16, W / 16, 3) float32."""
    num_frames, height, width, colors = frames.shape
    blocks = frames.reshape(num_frames, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, colors)
    return torch.from_numpy(blocks.mean(axis=(2, 4), dtype="float32"))


def write_reference() -> Path:
    """Sample on the CPU, write a new reference, and return its path."""
    video = sample_mini("cpu")
    note = json.dumps({"prompt": PROMPT, "seed": SEED, "steps": STEPS, "sha256": weight_checksums()}, sort_keys=True)
    with atomic_path(REFERENCE) as temporary:
        tensors = {"latents": video.latents.contiguous(), "shades": block_means(video.frames)}
        save_file(tensors, temporary, {_NOTE: note})
    return REFERENCE


def read_reference() -> Reference:
    """Read the file at `REFERENCE`."""
    with safe_open(REFERENCE, framework="pt") as file:
        checksums = json.loads(file.metadata()[_NOTE])["sha256"]
        return Reference(file.get_tensor("latents"), file.get_tensor("shades"), checksums)


def weight_checksums() -> dict[str, str]:
    """Return the sha256 of every weight file of the mini model that exists, by path."""
    found = {}
    for path in sorted(MODEL_FOLDER.glob("*/*.safetensors")):
        with path.open("rb") as file:
            found[path.relative_to(MODEL_FOLDER).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, which takes no arguments."""
    OneLineParser(
        prog="python -m opensora.cli.mini_reference",
        description="Sample the reference video of the bundled model anew, after the model has been trained again.",
    ).parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    logger.info("wrote %s", write_reference())


if __name__ == "__main__":
    main()
