# AdaCache for 30 steps, the slow codebook: more computed steps, closer to the baseline.
_base_ = "sample_480p.py"

cache = dict(
    metric="t-attn",
    metric_blocks=(13,),
    codebook=dict(
        thresholds=(0.08, 0.16, 0.24, 0.32, 0.40),  # relative change per step
        rates=(3, 2, 1, 1, 1, 1),  # steps a residual serves below each threshold, and above all of them
        num_sampling_steps=30,  # what it was tuned for
    ),
)
