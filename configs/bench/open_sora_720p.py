# Policies on Open-Sora v1.2 at 720p, 2 seconds, 100 steps; needs its weights and a GPU.
_base_ = "open_sora_480p.py"

title = "Cache policies at equal compute, Open-Sora v1.2, 720p"
sample = "configs/sample.py"

budgets = (27, 33, 40, 50, 67)  # computed steps of 100, for which a calibration has lists
showcase_budgets = (33,)
exact_steps = 200

policies = dict(
    calibrated=dict(further_budgets=(80,)),
    average_velocity=dict(further_budgets=(80,)),
    adacache=dict(further_budgets=(22, 80)),
    adacache_moreg=dict(cache=dict(moreg=dict(window=(0.1, 0.9)))),
    # With 100 steps neighboring ones differ less than what the published polynomial was fitted to.
    teacache=dict(
        _delete_=True,
        title="TeaCache",
        about="The change of the first block's input, scaled by a polynomial fitted on this model, adds up to a limit.",
        source="arXiv:2411.19108",
        tune="threshold",
        cache=dict(policy="teacache"),
    ),
)
