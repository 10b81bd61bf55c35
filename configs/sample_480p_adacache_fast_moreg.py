# The fast codebook with motion regularization.
_base_ = "sample_480p_adacache_fast.py"

save_dir = "samples/480p/adacache_fast_moreg"

cache = dict(
    moreg=dict(
        scale=0.385,
        power=8,
        divisor=1,
        gradient_weight=10,
        strides=(1,),  # latent frames
        window=(0.13, 0.87),  # of the steps: 4 to 26 of 30
    ),
)
