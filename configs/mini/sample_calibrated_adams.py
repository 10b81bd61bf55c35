# The bundled mini model, twice as fast on calibrated schedules of a second-order solver: nearer to the video of many
# steps than the usual solver is with every step computed.
_base_ = "../_base_/mini.py"

scheduler = dict(solver="adams")
calibration = "assets/opensora-mini/calibration_adams.json"
save_dir = "samples/mini/calibrated_adams"

speedup = 2.0  # of the denoising; or max_steps_computed = 12, or min_psnr = 35
