# The bundled mini model with AdaCache.
_base_ = "../_base_/mini.py"

save_dir = "samples/mini/adacache"

cache = dict(
    metric="t-attn",
    metric_blocks=(2,),  # of 4
    # A first guess: the fast 30-step codebook with thresholds * 0.44 and rates of at most 4.
    codebook=dict(
        thresholds=(0.035, 0.07, 0.106, 0.141, 0.176),  # relative change per step
        rates=(4, 4, 4, 3, 2, 1),  # steps a residual serves below each threshold, and above all of them
        num_sampling_steps=30,  # what it was tuned for
    ),
)
