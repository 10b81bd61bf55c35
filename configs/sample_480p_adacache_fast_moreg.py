# The fast codebook with motion regularization.
_base_ = "sample_480p_adacache_fast.py"

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
