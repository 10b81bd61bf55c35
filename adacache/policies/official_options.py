"""The flat option names of the official AdaCache code, translated into the fields of `AdaCacheConfig`."""

from collections.abc import Mapping
from typing import Any

from adacache.sites import METRICS
from adacache.validation import (
    check_choice,
    check_count,
    check_keys,
    check_positive,
    check_weight,
    is_list,
    step_window,
    whole_numbers,
)

# What the official code assumes for options that a config leaves out; its num_sampling_steps comes from the
# command line.
DEFAULTS: dict[str, Any] = {
    "do_cache": True,
    "cache_res": "t-attn",
    "cache_loc": (13,),
    "codebook": "steps100",
    "apply_moreg": False,
    "moreg_strides": (1,),
    "moreg_steps": (10, 90),
    "moreg_hyp": (0.385, 8, 1, 2),
    "mograd_mul": 10,
    "num_sampling_steps": None,
}
# Names that tell the two vocabularies apart; "codebook" belongs to both.
DISTINCTIVE = tuple(name for name in DEFAULTS if name != "codebook")


def translate(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the keyword arguments of `AdaCacheConfig` for official options, or None if `do_cache` is False.

    `num_sampling_steps` is checked and left out, as the sampler is its only source. The fourth entry of `moreg_hyp` is
    left out too: the official code never reads it.

    Raises:
        ValueError: an option is wrong, even one that do_cache or apply_moreg turns off; the message names it as the
            user did.
    """
    check_keys("official AdaCache option", options, DEFAULTS)
    options = {**DEFAULTS, **options}
    for flag in ("do_cache", "apply_moreg"):
        if not isinstance(options[flag], bool):
            raise ValueError(f"{flag} must be True or False, got {options[flag]!r}")
    check_choice("cache_res", options["cache_res"], METRICS)
    check_weight("mograd_mul", options["mograd_mul"])
    if options["num_sampling_steps"] is not None:
        check_count("num_sampling_steps", options["num_sampling_steps"])

    hyper = options["moreg_hyp"]
    if not is_list(hyper) or len(hyper) not in (3, 4):
        raise ValueError(f"moreg_hyp must be a list of scale, power and divisor, got {hyper!r}")
    for value in hyper:
        check_positive("moreg_hyp", value)
    moreg = {
        "scale": hyper[0],
        "power": hyper[1],
        "divisor": hyper[2],
        "gradient_weight": options["mograd_mul"],
        "strides": whole_numbers("moreg_strides", options["moreg_strides"], minimum=1),
        "window": step_window("moreg_steps", options["moreg_steps"]),
    }
    translated = {
        "codebook": options["codebook"],
        "metric": options["cache_res"],
        "metric_blocks": whole_numbers("cache_loc", options["cache_loc"], minimum=0),
        "moreg": moreg if options["apply_moreg"] else None,
        "schedule": "batch",  # the official code measures a batch as a whole
    }
    return translated if options["do_cache"] else None
