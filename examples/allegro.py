"""Allegro with AdaCache: 88 frames of 720 x 1280.

The first run downloads the weights, unless you name a folder that has them: python examples/allegro.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import AllegroPipeline
from diffusers.utils import export_to_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "rhymes-ai/Allegro"
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = AllegroPipeline.from_pretrained(model, torch_dtype={"default": torch.bfloat16, "vae": torch.float32}).to(device)
pipe.vae.enable_tiling()  # its decoder works only in tiles
handle = apply_adacache(pipe, "steps100")
video = pipe("a red panda eats bamboo in the rain", num_inference_steps=100).frames[0]
export_to_video(video, "allegro.mp4", fps=15)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("allegro.trace.json")
