"""CogVideoX-2B with AdaCache: 49 frames of 480 x 720.

The first run downloads the weights, unless you name a folder that has them: python examples/cogvideox.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import CogVideoXPipeline
from diffusers.utils import export_to_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "THUDM/CogVideoX-2b"
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = CogVideoXPipeline.from_pretrained(model, torch_dtype=torch.float16).to(device)
handle = apply_adacache(pipe, "fast30")
video = pipe("a red panda eats bamboo in the rain", num_inference_steps=50).frames[0]
export_to_video(video, "cogvideox.mp4", fps=8)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("cogvideox.trace.json")
