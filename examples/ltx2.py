"""LTX-2 with AdaCache: 121 frames of 512 x 768, with sound.

The first run downloads the weights, unless you name a folder that has them: python examples/ltx2.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import LTX2Pipeline
from diffusers.utils import encode_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "Lightricks/LTX-2"
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = LTX2Pipeline.from_pretrained(model, torch_dtype=torch.bfloat16).to(device)
handle = apply_adacache(pipe, "fast30")
result = pipe("a red panda eats bamboo in the rain", num_inference_steps=30, output_type="np")
video, sound, rate = result.frames[0], result.audio[0].float().cpu(), pipe.vocoder.config.output_sampling_rate
encode_video(video, fps=24, output_path="ltx2.mp4", audio=sound, audio_sample_rate=rate)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("ltx2.trace.json")
