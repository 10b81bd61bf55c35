# AdaCache with motion regularization: videos that move more are computed more often.
_base_ = "sample_adacache.py"

cache = dict(
    moreg=dict(
        scale=0.385,
        power=8,
        divisor=1,
        gradient_weight=10,
        strides=(1,),  # latent frames
        window=(0.1, 0.9),  # of the steps: 10 to 90 of 100
    ),
)
