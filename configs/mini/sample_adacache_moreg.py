# The bundled mini model with AdaCache and motion regularization.
_base_ = "sample_adacache.py"

save_dir = "samples/mini/adacache_moreg"

cache = dict(
    # A first guess: the mini model's motion scores lie lower than the large one's, hence the milder power.
    moreg=dict(
        scale=0.2,
        power=1,
        divisor=1,
        gradient_weight=1,
        strides=(1,),  # latent frames
        window=(0.13, 0.87),  # of the steps: 4 to 26 of 30
    ),
)
