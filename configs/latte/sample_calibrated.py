# Latte-1, twice as fast on calibrated schedules. No thresholds of AdaCache were ever published for this
# model, so that what may be left out has to be measured on it once:
# python scripts/calibrate.py configs/latte/sample.py --output outputs/calibration/latte
_base_ = "../_base_/latte.py"

calibration = "outputs/calibration/latte/calibration.json"
speedup = 2.0  # of the denoising; or max_steps_computed = 12, or min_psnr = 35
