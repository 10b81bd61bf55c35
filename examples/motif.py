"""Motif-Video with AdaCache: 121 frames of 736 x 1280.

The first run downloads the weights, unless you name a folder that has them: python examples/motif.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import MotifVideoPipeline
from diffusers.utils import export_to_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "Motif-Technologies/Motif-Video-2B"
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = MotifVideoPipeline.from_pretrained(model, torch_dtype=torch.bfloat16).to(device)
handle = apply_adacache(pipe, "fast30")
video = pipe("a red panda eats bamboo in the rain", num_inference_steps=50).frames[0]
export_to_video(video, "motif.mp4", fps=24)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("motif.trace.json")
