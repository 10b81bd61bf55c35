"""Helios with AdaCache: a section of 33 frames of 384 x 640; longer videos have more sections, each its own run.

The first run downloads the weights, unless you name a folder that has them: python examples/helios.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import HeliosPipeline
from diffusers.utils import export_to_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "BestWishYsh/Helios-Base"
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = HeliosPipeline.from_pretrained(model, torch_dtype={"default": torch.bfloat16, "vae": torch.float32}).to(device)
handle = apply_adacache(pipe, "fast30")
video = pipe("a red panda in the rain", height=384, width=640, num_frames=33, num_inference_steps=50).frames[0]
export_to_video(video, "helios.mp4", fps=24)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("helios.trace.json")
