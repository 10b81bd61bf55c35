"""EasyAnimate 5.1 7B with AdaCache: 49 frames of 512 x 512.

The first run downloads the weights, unless you name a folder that has them: python examples/easyanimate.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import EasyAnimatePipeline
from diffusers.utils import export_to_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "alibaba-pai/EasyAnimateV5.1-7b-zh-diffusers"
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = EasyAnimatePipeline.from_pretrained(model, torch_dtype=torch.bfloat16).to(device)
pipe.vae.enable_tiling()
handle = apply_adacache(pipe, "fast30")
video = pipe("a red panda in the rain", height=512, width=512, num_frames=49, num_inference_steps=50).frames[0]
export_to_video(video, "easyanimate.mp4", fps=8)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("easyanimate.trace.json")
