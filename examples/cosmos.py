"""Cosmos 1 with AdaCache: 121 frames of 704 x 1280. The pipeline also needs the package cosmos_guardrail.

The first run downloads the weights, unless you name a folder that has them: python examples/cosmos.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import CosmosTextToWorldPipeline
from diffusers.utils import export_to_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "nvidia/Cosmos-1.0-Diffusion-7B-Text2World"
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = CosmosTextToWorldPipeline.from_pretrained(model, torch_dtype=torch.bfloat16).to(device)
handle = apply_adacache(pipe, "fast30")
video = pipe("a red panda eats bamboo in the rain", num_inference_steps=36).frames[0]
export_to_video(video, "cosmos.mp4", fps=30)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("cosmos.trace.json")
