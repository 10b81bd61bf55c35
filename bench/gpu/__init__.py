"""The sections of `scripts/gpu_check.py`: is the sampler right on this GPU, how fast is it, where does the time go?"""
