# The bundled mini model with AdaCache and motion regularization.
_base_ = "sample_adacache.py"

# The published constants (scale 0.385, power 8) would multiply this model's still videos by less than a hundredth.
# Latent frames of its still videos differ by about 0.2, of slow ones by 0.3, of fast ones by 0.4 and of camera pans by
# 0.45. These constants raise the distances of fast videos and of pans most, those of slow ones a little, lower those of
# still ones, and leave the first 8 steps alone: there a step too few costs a still video most.
cache = dict(
    moreg=dict(
        scale=0.28,
        power=3,
        divisor=1,
        gradient_weight=0,
        strides=(1,),  # latent frames
        window=(0.3, 0.95),  # of the steps: 9 to 28 of 30
    ),
)
