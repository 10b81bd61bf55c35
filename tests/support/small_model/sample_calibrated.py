# The first mini model, twice as fast: from one computed step to the next, the last outputs of the model are combined
# so that the video comes out as with every step computed. Which steps, and how, a calibration has found.
_base_ = "base.py"

speedup = 2.0  # of the denoising; or max_steps_computed = 12, or min_psnr = 35
