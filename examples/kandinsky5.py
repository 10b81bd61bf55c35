"""Kandinsky 5 Lite with AdaCache: 121 frames of 512 x 768.

The first run downloads the weights, unless you name a folder that has them: python examples/kandinsky5.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import Kandinsky5T2VPipeline
from diffusers.utils import export_to_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers"
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = Kandinsky5T2VPipeline.from_pretrained(model, torch_dtype=torch.bfloat16).to(device)
handle = apply_adacache(pipe, "fast30")
video = pipe("a red panda eats bamboo in the rain", num_frames=121, num_inference_steps=50).frames[0]
export_to_video(video, "kandinsky5.mp4", fps=24)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("kandinsky5.trace.json")
