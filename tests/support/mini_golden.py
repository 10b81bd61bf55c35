"""Reference latents of the bundled mini model; run as a script after a new training to write them again."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from opensora.config.loading import load_config
from opensora.pipeline import SamplingPipeline

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "tests/golden/mini/latents.safetensors"
# Prompt -> seed.
PROMPTS = {
    "a red circle moving fast to the right on a gray background": 1,
    "a still yellow star on a drifting teal striped background": 2,
}


def sample_golden(pipe: SamplingPipeline) -> dict[str, Tensor]:
    """Latents (4, 5, 8, 8) per prompt, every step computed."""
    return {prompt: pipe([prompt], seed=seed, progress=False).latents[0] for prompt, seed in PROMPTS.items()}


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    baseline = SamplingPipeline.from_config(load_config(ROOT / "configs/mini/sample.py"))
    save_file({prompt: latents.contiguous() for prompt, latents in sample_golden(baseline).items()}, PATH)
    print(f"wrote {PATH}")
