# The bundled mini model with AdaCache.
_base_ = "../_base_/mini.py"

save_dir = "samples/mini/adacache"

# Tuned on 15 training captions so that half of the 30 steps are computed. On 32 held-out captions it computes 15.2 and
# comes out at 47 dB from the uncached videos; the official fast30 codebook 9.3 (33 dB), slow30 15.7 (48 dB).
# Measured by `python scripts/benchmark.py --parts quality`.
cache = dict(
    metric="t-attn",
    metric_blocks=(2,),  # of 4
    codebook=dict(
        thresholds=(0.035, 0.105, 0.14),  # relative change per step
        rates=(4, 3, 2, 1),  # steps a residual serves below each threshold, and above all of them
        num_sampling_steps=30,  # what it was tuned for
    ),
)
