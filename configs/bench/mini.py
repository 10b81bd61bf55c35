# Policies on the bundled mini model at equal compute: python scripts/bench.py configs/bench/mini.py
title = "Cache policies at equal compute, bundled mini model"
sample = "configs/mini/sample.py"  # its own cache, if it has one, is left aside

# Scenes that no training clip of the model shows.
prompts = "assets/prompts/mini_bench.txt"
num_prompts = 13  # one of every class of content
num_seeds = 1

budgets = (6, 8, 12, 15)  # computed steps of 30
tuning_prompts = "assets/prompts/mini_calibration.txt"  # of training clips
tuning_clips = 13  # the same
batch_size = 8  # while tuning

exact_steps = 200
# Of second order, since policies may come as near to the solution as 200 Euler steps do.
exact_solver = "adams"
showcase_prompts = 6
showcase_budgets = (12,)
baseline = "adacache"
best = "calibrated"

# tune="threshold"   the option `threshold` is searched, "codebook": AdaCache's published one is scaled,
#      "calibrated"  the schedules of the sampling config's calibration, with `cache` in place of their options;
#                     policy="static" takes the lists alone, and reuses residuals; "average_velocity", which only
#                     a bench knows, crosses their gaps with the mean velocity
# steps=True         as many sampling steps as the budget, no cache
# settings=[...]     these options, wherever their compute falls
policies = dict(
    calibrated=dict(
        title="Calibrated (ours)",
        about="A fixed list of steps; in between, a fitted combination of the last outputs, to repeat the video.",
        ours=True,
        tune="calibrated",
        further_budgets=(24,),
    ),
    calibrated_solution=dict(
        title="Calibrated to the solution (ours)",
        about="The same, fitted to the exact solution instead of the uncached video.",
        ours=True,
        tune="calibrated",
        calibration="assets/opensora-mini/calibration_solution.json",
    ),
    static=dict(
        title="Static schedule",
        about="The same lists with the last residual held: offline schedules as in LeMiCa.",
        source="arXiv:2511.00090",
        tune="calibrated",
        cache=dict(policy="static", bridge="hold"),
    ),
    average_velocity=dict(
        title="Average velocity",
        about="The same lists; gaps are crossed with the mean velocity that the last two outputs foretell: MeanCache.",
        source="arXiv:2601.19961",
        tune="calibrated",
        cache=dict(policy="average_velocity"),
        further_budgets=(24,),
    ),
    adacache=dict(
        title="AdaCache",
        about="How long a residual is held follows from how much it changed; codebook scaled to the budget.",
        source="arXiv:2411.02397",
        tune="codebook",
        cache=dict(policy="adacache", metric="t-attn", metric_blocks=(4,)),
        further_budgets=(5, 24),  # gains are differences to its curve, which has to reach as far as all others
    ),
    adacache_moreg=dict(
        title="AdaCache + MoReg",
        about="AdaCache that computes videos with more motion more often.",
        source="arXiv:2411.02397",
        tune="codebook",
        cache=dict(
            policy="adacache",
            metric="t-attn",
            metric_blocks=(4,),
            moreg=dict(scale=0.28, power=3, divisor=1, gradient_weight=0, strides=(1,), window=(0.3, 0.95)),
        ),
    ),
    adacache_fitted=dict(
        title="AdaCache, fitted (ours)",
        about="AdaCache's decisions; reused steps follow the slope as far as that came true before.",
        ours=True,
        tune="codebook",
        cache=dict(policy="adacache", metric="t-attn", metric_blocks=(4,), bridge="fitted"),
    ),
    adacache_exponential=dict(
        title="AdaCache, exponential forecast",
        about="AdaCache's decisions; changes of the residual are forecast to fade as measured.",
        source="dynamic mode decomposition",
        tune="codebook",
        cache=dict(policy="adacache", metric="t-attn", metric_blocks=(4,), bridge="exponential"),
    ),
    fixed=dict(
        title="Fixed interval",
        about="Every n-th step is computed.",
        cache=dict(policy="fixed"),
        settings=[dict(interval=2), dict(interval=3), dict(interval=4)],
    ),
    pab=dict(
        title="PAB",
        about="Attention is broadcast over fixed numbers of steps, cross-attention longest; everything else computed.",
        source="arXiv:2408.12588",
        # Of 28 blocks it holds the MLPs of 5: of these 8, one.
        cache=dict(policy="pab", mlp_blocks=(0,)),
        settings=[
            dict(spatial=2, temporal=4, cross=6),
            dict(spatial=3, temporal=5, cross=7),
            dict(spatial=5, temporal=7, cross=9),
        ],
    ),
    teacache=dict(
        title="TeaCache",
        about="The change of the first block's input, scaled by a polynomial fitted on this model, adds up to a limit.",
        source="arXiv:2411.19108",
        tune="threshold",
        cache=dict(policy="teacache"),
    ),
    magcache=dict(
        title="MagCache",
        about="Residuals are held while their magnitude, measured once on this model, hardly changes.",
        source="arXiv:2506.09045",
        tune="threshold",
        cache=dict(policy="magcache"),
        fallbacks=[dict(max_skips=6, retention=0.1)],  # its own limits keep it above 12 of 30 steps
    ),
    fbcache=dict(
        title="FBCache",
        about="The first block runs at every step; if it gives about the same as before, the others are reused.",
        source="ParaAttention, diffusers",
        tune="threshold",
        cache=dict(policy="fbcache"),
    ),
    taylorseer=dict(
        title="TaylorSeer",
        about="Every n-th step is computed, those between are forecast by a Taylor series.",
        source="arXiv:2503.06923",
        cache=dict(policy="taylorseer"),
        settings=[dict(interval=interval, order=order) for order in (1, 2) for interval in (2, 3, 4, 5)]
        + [dict(interval=2, order=order, warmup=8) for order in (1, 2)],  # to come near 20 steps
    ),
    easycache=dict(
        title="EasyCache",
        about="The model's output is reused while its expected change, from the input's, stays below a limit.",
        source="arXiv:2507.02860",
        tune="threshold",
        cache=dict(policy="easycache"),
    ),
    seacache=dict(
        title="SeaCache, order 1",
        about="The latents' change, freed of noise by a filter, adds up to a limit; reused steps go on in a line.",
        source="arXiv:2602.18993",
        tune="threshold",
        cache=dict(policy="seacache"),
        fallbacks=[dict(max_skips=5)],  # its own limit keeps it above 11 of 30 steps
    ),
    seacache_held=dict(
        title="SeaCache, order 0",
        about="The same decisions with the last residual held.",
        source="arXiv:2602.18993",
        tune="threshold",
        cache=dict(policy="seacache", bridge="hold"),
        fallbacks=[dict(max_skips=5)],
    ),
    euler_steps=dict(
        title="Fewer Euler steps",
        about="No cache: as many sampling steps as the budget.",
        steps=True,
        solver="euler",
    ),
    adams_steps=dict(
        title="Fewer second-order steps",
        about="No cache: as many steps of a two-step Adams-Bashforth solver.",
        steps=True,
        solver="adams",
    ),
    midpoint_steps=dict(
        title="Fewer midpoint steps",
        about="No cache: as many calls of a second-order Runge-Kutta solver, in pairs.",
        steps=True,
        solver="midpoint",
    ),
)
