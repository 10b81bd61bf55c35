"""Wan 2.2 A14B with AdaCache: one schedule over its two transformers.

The first run downloads the weights, unless you name a folder that has them: python examples/wan22.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import WanPipeline
from diffusers.utils import export_to_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = WanPipeline.from_pretrained(model, torch_dtype={"default": torch.bfloat16, "vae": torch.float32}).to(device)
handle = apply_adacache(pipe, "fast30")
video = pipe(
    "a red panda eats bamboo in the rain", height=480, width=832, num_frames=81, num_inference_steps=40
).frames[0]
export_to_video(video, "wan22.mp4", fps=16)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("wan22.trace.json")
