# The baseline at 480p, 2 seconds, 30 steps.
_base_ = "_base_/open_sora_v1_2.py"

resolution = "480p"
aspect_ratio = "9:16"
scheduler = dict(num_sampling_steps=30)
