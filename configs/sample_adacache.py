# AdaCache: the change of a middle block's temporal attention decides how many steps its residual may serve.
_base_ = "sample.py"

cache = dict(
    metric="t-attn",
    metric_blocks=(13,),  # of 28; more blocks are averaged
    codebook=dict(
        thresholds=(0.03, 0.05, 0.07, 0.09, 0.11),  # relative change per step
        rates=(12, 10, 8, 6, 4, 3),  # steps a residual serves below each threshold, and above all of them
        num_sampling_steps=100,  # what it was tuned for
    ),
)
