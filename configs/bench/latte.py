# Policies on Latte-1 at equal compute; needs its weights and a GPU. For the calibrated schedules run
# python scripts/calibrate.py configs/latte/sample.py first, and set `calibration` with --cfg-options. Policies that
# look into blocks, or reuse parts of them, are not here: models of diffusers do not show their insides.
_base_ = "mini.py"

title = "Cache policies at equal compute, Latte-1"
sample = "configs/latte/sample.py"

prompts = None  # the config's own; every third of them is kept for tuning
tuning_prompts = None
caption_check = "none"
num_prompts = 6
num_seeds = 1
tuning_clips = 4
batch_size = 1
budgets = (12, 16, 20, 25, 32)  # computed steps of 50
exact_steps = 200
exact_solver = None
showcase_budgets = (20,)

policies = dict(
    _delete_=True,
    calibrated=dict(
        title="Calibrated (ours)",
        about="A fixed list of steps; in between, a fitted combination of the last outputs, to repeat the video.",
        ours=True,
        tune="calibrated",
    ),
    static=dict(
        title="Static schedule",
        about="The same lists with the last residual held: offline schedules as in LeMiCa.",
        source="arXiv:2511.00090",
        tune="calibrated",
        cache=dict(policy="static", bridge="hold"),
    ),
    adacache=dict(
        title="AdaCache",
        about="How long a residual is held follows from how much it changed; codebook scaled to the budget.",
        source="arXiv:2411.02397",
        tune="codebook",
        cache=dict(policy="adacache", metric="t-attn", metric_blocks=(13,)),
    ),
    adacache_fitted=dict(
        title="AdaCache, fitted (ours)",
        about="AdaCache's decisions; reused steps follow the slope as far as that came true before.",
        ours=True,
        tune="codebook",
        cache=dict(policy="adacache", metric="t-attn", metric_blocks=(13,), bridge="fitted"),
    ),
    fixed=dict(
        title="Fixed interval",
        about="Every n-th step is computed.",
        cache=dict(policy="fixed"),
        settings=[dict(interval=2), dict(interval=3), dict(interval=4)],
    ),
    taylorseer=dict(
        title="TaylorSeer",
        about="Every n-th step is computed, those between are forecast by a Taylor series.",
        source="arXiv:2503.06923",
        cache=dict(policy="taylorseer"),
        settings=[dict(interval=interval, order=order) for order in (1, 2) for interval in (2, 3, 4)],
    ),
    easycache=dict(
        title="EasyCache",
        about="The model's output is reused while its expected change, from the input's, stays below a limit.",
        source="arXiv:2507.02860",
        tune="threshold",
        cache=dict(policy="easycache"),
    ),
    fewer_steps=dict(
        title="Fewer DDIM steps",
        about="No cache: as many sampling steps as the budget.",
        steps=True,
    ),
)
