"""SANA-Video 2B with AdaCache: 81 frames of 480 x 832.

The first run downloads the weights, unless you name a folder that has them: python examples/sana_video.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import SanaVideoPipeline
from diffusers.utils import export_to_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "Efficient-Large-Model/SANA-Video_2B_480p_diffusers"
device = "cuda" if torch.cuda.is_available() else "cpu"
dtypes = {"default": torch.bfloat16, "vae": torch.float32}
pipe = SanaVideoPipeline.from_pretrained(model, torch_dtype=dtypes).to(device)
handle = apply_adacache(pipe, "fast30")
video = pipe("a red panda eats bamboo", height=480, width=832, frames=81, num_inference_steps=50).frames[0]
export_to_video(video, "sana_video.mp4", fps=16)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("sana_video.trace.json")
