"""Wan 2.1 1.3B with AdaCache: 81 frames of 480 x 832.

The first run downloads the weights, unless you name a folder that has them: python examples/wan.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import WanPipeline
from diffusers.utils import export_to_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = WanPipeline.from_pretrained(model, torch_dtype={"default": torch.bfloat16, "vae": torch.float32}).to(device)
handle = apply_adacache(pipe, "fast30")
video = pipe(
    "a red panda eats bamboo in the rain", height=480, width=832, num_frames=81, num_inference_steps=50
).frames[0]
export_to_video(video, "wan.mp4", fps=16)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("wan.trace.json")
