"""SkyReels-V2 14B with AdaCache: 97 frames of 544 x 960.

The first run downloads the weights, unless you name a folder that has them: python examples/skyreels_v2.py FOLDER
"""

import sys

import checkout  # noqa: F401 (leave it out in a program of your own)
import torch
from diffusers import SkyReelsV2Pipeline
from diffusers.utils import export_to_video

from adacache.integrations.diffusers import apply_adacache

model = sys.argv[1] if len(sys.argv) > 1 else "Skywork/SkyReels-V2-T2V-14B-540P-Diffusers"
device = "cuda" if torch.cuda.is_available() else "cpu"
dtypes = {"default": torch.bfloat16, "vae": torch.float32}
pipe = SkyReelsV2Pipeline.from_pretrained(model, torch_dtype=dtypes).to(device)
handle = apply_adacache(pipe, "fast30")
video = pipe("a red panda eats bamboo", height=544, width=960, num_frames=97, num_inference_steps=50).frames[0]
export_to_video(video, "skyreels_v2.mp4", fps=24)
print("computed steps:", handle.trace.computed_steps)
handle.trace.save("skyreels_v2.trace.json")
