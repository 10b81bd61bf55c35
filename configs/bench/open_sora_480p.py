# Policies on Open-Sora v1.2 at 480p, 2 seconds, 30 steps; needs its weights and a GPU. For the calibrated schedules run
# python scripts/calibrate.py configs/sample_480p.py first, and set `calibration` with --cfg-options.
_base_ = "mini.py"

title = "Cache policies at equal compute, Open-Sora v1.2, 480p"
sample = "configs/sample_480p.py"

prompts = None  # the config's own; those after the first num_prompts, at least a third, are kept for tuning
tuning_prompts = None
num_prompts = 6
num_seeds = 1
budgets = (6, 8, 10, 12, 15, 20)
tuning_clips = 4
batch_size = 1
exact_steps = 100

policies = dict(
    calibrated_solution=None,  # for a file that was made with --aim solution: dict(calibration="FILE")
    adacache=dict(cache=dict(metric_blocks=(13,))),
    adacache_moreg=dict(
        cache=dict(
            metric_blocks=(13,),
            moreg=dict(scale=0.385, power=8, divisor=1, gradient_weight=10, strides=(1,), window=(0.13, 0.87)),
        )
    ),
    adacache_fitted=dict(cache=dict(metric_blocks=(13,))),
    adacache_exponential=dict(cache=dict(metric_blocks=(13,))),
    pab=dict(cache=dict(mlp_blocks=(0, 1, 2, 3, 4))),
    teacache=dict(
        about="The change of the first block's input, scaled by the published polynomial, adds up to a limit.",
        cache=dict(coefficients="open-sora"),
    ),
)
