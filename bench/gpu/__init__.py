"""What `scripts/gpu_check.py` runs: is the sampler right on this GPU, how fast is it, and where does the time go."""
