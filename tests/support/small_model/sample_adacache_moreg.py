# The first mini model with AdaCache and motion regularization.
_base_ = "sample_adacache.py"

# The published constants (scale 0.385, power 8) would multiply this model's still videos by less than a thousandth.
# These are about neutral for the frame-to-frame change of a slow video, raise the distances of fast ones and of camera
# pans, and leave the first 8 steps alone: there a step too few costs a still video most.
cache = dict(
    moreg=dict(
        scale=0.15,
        power=1.5,
        divisor=1,
        gradient_weight=0,
        strides=(1,),  # latent frames
        window=(0.3, 0.95),  # of the steps: 9 to 28 of 30
    ),
)
