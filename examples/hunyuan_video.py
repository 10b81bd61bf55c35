"""HunyuanVideo with AdaCache: 61 frames of 320 x 512.

The first run downloads the weights, unless you name a folder that has them: python examples/hunyuan_video.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import HunyuanVideoPipeline
from diffusers.utils import export_to_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "hunyuanvideo-community/HunyuanVideo"
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = HunyuanVideoPipeline.from_pretrained(model, torch_dtype=torch.bfloat16).to(device)
pipe.vae.enable_tiling()
handle = apply_adacache(pipe, "fast30")
video = pipe("a red panda in the rain", height=320, width=512, num_frames=61, num_inference_steps=30).frames[0]
export_to_video(video, "hunyuan_video.mp4", fps=15)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("hunyuan_video.trace.json")
