"""Our sampling of Latte is that of diffusers' LattePipeline, from prompts to latents and to frames."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, T5EncoderModel

from opensora.pipeline import SamplingPipeline, draw_noise
from tests.support.tiny_latte import PROMPTS, latte_config

SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler,
    "pndm": diffusers.PNDMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
}
SEED, SCALE, STEPS = 3, 5.0, 6


@pytest.fixture(scope="module")
def reference(latte_folder) -> diffusers.LattePipeline:
    pipe = diffusers.LattePipeline(
        AutoTokenizer.from_pretrained(latte_folder / "tokenizer"),
        T5EncoderModel.from_pretrained(latte_folder / "text_encoder"),
        diffusers.AutoencoderKL.from_pretrained(latte_folder / "vae", low_cpu_mem_usage=False),
        diffusers.LatteTransformer3DModel.from_pretrained(latte_folder / "transformer", low_cpu_mem_usage=False),
        diffusers.DDIMScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(pipe: diffusers.LattePipeline, solver: str, prompt: str, output_type: str, **changes) -> torch.Tensor:
    pipe.scheduler = SCHEDULERS[solver]()
    noise = draw_noise([SEED], (4, 5, 8, 8), 0).float()
    call = {"negative_prompt": "", "guidance_scale": SCALE, "num_inference_steps": STEPS, "video_length": 5} | changes
    return pipe(prompt, height=64, width=64, latents=noise, output_type=output_type, **call).frames


def ours(folder, solver: str, **changes) -> SamplingPipeline:
    scheduler = {"type": solver, "num_sampling_steps": STEPS, "cfg_scale": SCALE}
    # As many tokens as LattePipeline reads.
    text = {"type": "t5", "from_pretrained": f"{folder}/text_encoder", "model_max_length": 120}
    return SamplingPipeline.from_config(latte_config(folder, scheduler=scheduler, text_encoder=text, **changes))


@pytest.mark.parametrize("solver", SCHEDULERS)
@pytest.mark.parametrize("prompt", PROMPTS[:2])
def test_latents_are_equal_bit_for_bit(reference, latte_folder, solver, prompt):
    assert torch.equal(
        ours(latte_folder, solver).sample_latents([prompt], seed=[SEED]), theirs(reference, solver, prompt, "latent")
    )


def test_a_longer_negative_prompt_is_cut_as_there(reference, latte_folder):
    negative = "a striped background moving slowly to the left"
    expected = theirs(reference, "ddim", PROMPTS[1], "latent", negative_prompt=negative)
    pipe = ours(latte_folder, "ddim", negative_prompt=negative)
    with pytest.warns(UserWarning, match="negative prompt has 9 tokens, more than 1 of 1 prompts"):
        latents = pipe.sample_latents([PROMPTS[1]], seed=[SEED])
    assert torch.equal(latents, expected)


def test_without_guidance(reference, latte_folder):
    expected = theirs(reference, "ddim", PROMPTS[0], "latent", guidance_scale=1.0)
    pipe = ours(latte_folder, "ddim")
    pipe.scheduler.cfg_scale = 1.0
    assert torch.equal(pipe.sample_latents([PROMPTS[0]], seed=[SEED]), expected)


def test_frames_are_equal_up_to_rounding(reference, latte_folder):
    expected = theirs(reference, "ddim", PROMPTS[0], "np")[0]
    frames = ours(latte_folder, "ddim")([PROMPTS[0]], seed=[SEED]).videos[0]
    assert np.abs(frames / 255 - expected).max() < 1.01 / 255


def test_a_video_does_not_depend_on_its_neighbors(latte_folder):
    """There LattePipeline shows shorter prompts zeros, and the negative one more padding."""
    pipe = ours(latte_folder, "ddim")
    both = pipe.sample_latents(PROMPTS[:2], seed=[SEED, SEED + 1])
    for index in (0, 1):
        alone = pipe.sample_latents([PROMPTS[index]], seed=[SEED + index])
        torch.testing.assert_close(both[index : index + 1], alone, atol=2e-4, rtol=1e-4)
