# The bundled mini model with AdaCache.
_base_ = "../_base_/mini.py"

save_dir = "samples/mini/adacache"

# Tuned on 15 training captions so that half of the 30 steps are computed: 15.1 of 30, 46 dB from the baseline's video.
# The official codebooks were made for a larger model; `scripts/benchmark.py --parts quality` shows what they do here.
cache = dict(
    metric="t-attn",
    metric_blocks=(2,),  # of 4
    codebook=dict(
        thresholds=(0.035, 0.105, 0.14),  # relative change per step
        rates=(4, 3, 2, 1),  # steps a residual serves below each threshold, and above all of them
        num_sampling_steps=30,  # what it was tuned for
    ),
)
