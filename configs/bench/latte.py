# Policies on Latte-1 at equal compute; needs its weights and a GPU. For the calibrated schedules run
# python scripts/calibrate.py configs/latte/sample.py first, and set `calibration` with --cfg-options.
_base_ = "open_sora_480p.py"

title = "Cache policies at equal compute, Latte-1"
sample = "configs/latte/sample.py"

budgets = (14, 16, 20, 25, 34)  # computed steps of 50, for which a calibration has lists
exact_steps = 200
exact_solver = None
showcase_budgets = (20,)

policies = dict(
    calibrated=dict(further_budgets=()),
    adacache=dict(further_budgets=()),
    taylorseer=dict(settings=[dict(interval=interval, order=order) for order in (1, 2) for interval in (2, 3, 4)]),
    euler_steps=dict(title="Fewer DDIM steps", solver=None),
    # Left out: calibrations and average velocities of another model, solvers of a flow, and policies that look into
    # blocks or reuse parts of them, as models of diffusers do not show their insides.
    **dict.fromkeys(("calibrated_solution", "average_velocity", "adacache_moreg", "adacache_exponential")),
    **dict.fromkeys(("pab", "teacache", "magcache", "fbcache", "seacache", "seacache_held")),
    **dict.fromkeys(("adams_steps", "midpoint_steps")),
)
