"""Mochi 1 with AdaCache: 85 frames of 480 x 848.

The first run downloads the weights, unless you name a folder that has them: python examples/mochi.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import MochiPipeline
from diffusers.utils import export_to_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "genmo/mochi-1-preview"
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = MochiPipeline.from_pretrained(model, torch_dtype=torch.bfloat16).to(device)
pipe.vae.enable_tiling()
handle = apply_adacache(pipe, "fast30")
video = pipe("a red panda eats bamboo in the rain", num_frames=85, num_inference_steps=64).frames[0]
export_to_video(video, "mochi.mp4", fps=30)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("mochi.trace.json")
