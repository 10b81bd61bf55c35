"""The quantities of the page beside the metrics, and how all numbers are defined, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def _cost(key: str, title: str, unit: str, digits: int, about: str, better: str = "lower") -> dict[str, Any]:
    return {"key": key, "title": title, "unit": unit, "digits": digits, "better": better, "about": about}


# With the keys of an entry of bench.json's metrics; what a point's values lack is left out of the page.
COSTS = (
    _cost(
        "computed_steps", "Computed steps", "", 1, "Steps at which the blocks ran; a step computed in part counts so."
    ),
    _cost("compute", "Compute", "steps", 1, "Operations of the run over those of one computed step."),
    _cost("denoise_seconds", "Denoising time", "s", 2, "All sampling steps; prompts are encoded beforehand."),
    _cost("total_seconds", "Total time", "s", 2, "Denoising and decoding."),
    _cost("speedup", "Speedup", "×", 2, "Denoising time of the uncached run over this one's, in pairs.", "higher"),
    _cost("tflops", "Operations", "TFLOP", 2, "Of the transformer; a multiply-add counts as two."),
    _cost("cache_mb", "Cache", "MB", 1, "The most that the policy keeps from one step to the next."),
    _cost("peak_mb", "Peak memory", "MB", 0, "While denoising: of the GPU, or of the process."),
)
_GENERAL = (
    (
        "Budget",
        "Computed steps that a policy was tuned to, on other prompts. Settings without a budget stand at the nearest.",
    ),
    (
        "Differences at equal compute",
        "Prompt by prompt: the other policy's curve over compute is interpolated to the compute of the point "
        "(shortly beyond its ends it goes on level). None where the curve does not reach.",
    ),
    ("Intervals", "95 %, by bootstrap over prompts; means are over all prompts and seeds."),
)


def define(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(title, definition) of everything the page shows."""
    described = [(quantity["title"], _described(quantity)) for quantity in (*metrics, *COSTS)]
    return [*described, *_GENERAL]


def _described(quantity: Mapping[str, Any]) -> str:
    return f"{quantity.get('about', '')} {quantity['better'].capitalize()} is better.".strip()
