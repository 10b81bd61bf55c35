"""Kandinsky 6 with AdaCache: 121 frames of 480 x 864, with sound.

The first run downloads the weights, unless you name a folder that has them: python examples/kandinsky6.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import Kandinsky6TI2VAPipeline
from diffusers.utils import encode_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "kandinskylab/Kandinsky-6.0-Pro-distill-5s-Diffusers"
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = Kandinsky6TI2VAPipeline.from_pretrained(model, torch_dtype=torch.bfloat16).to(device)
handle = apply_adacache(pipe, "fast30")
result = pipe("a red panda eats bamboo in the rain", height=480, width=864, num_inference_steps=16, guidance_scale=1.0)
video, sound = result.frames[0], torch.as_tensor(result.audio[0])[None].cpu()
encode_video(video, fps=24, output_path="kandinsky6.mp4", audio=sound, audio_sample_rate=pipe.audio_sample_rate)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("kandinsky6.trace.json")
