# Open-Sora-Plan v1.1.0, twice as fast on calibrated schedules. No thresholds of AdaCache were ever published for this
# model, so that what may be left out has to be measured on it once:
# python scripts/calibrate.py configs/open_sora_plan/sample.py --output outputs/calibration/open_sora_plan
_base_ = "../_base_/open_sora_plan.py"

calibration = "outputs/calibration/open_sora_plan/calibration.json"
speedup = 2.0  # of the denoising; or max_steps_computed = 12, or min_psnr = 35
