# The bundled mini model with AdaCache.
_base_ = "../_base_/mini.py"

# Thresholds of the smaller model before this one. They compute 14.4 of the 30 steps here, over 32 held-out captions:
# `python scripts/benchmark.py --parts quality`.
cache = dict(
    metric="t-attn",
    metric_blocks=(4,),  # of 8
    codebook=dict(
        thresholds=(0.05, 0.09, 0.14),  # relative change per step
        rates=(4, 3, 2, 1),  # steps a residual serves below each threshold, and above all of them
        num_sampling_steps=30,  # what it was tuned for
    ),
)
