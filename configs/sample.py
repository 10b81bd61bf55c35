# The baseline: 720p, 2 seconds, 100 steps, every step computed.
_base_ = "_base_/open_sora_v1_2.py"

resolution = "720p"
aspect_ratio = "9:16"
