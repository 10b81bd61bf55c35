"""What is measured of every video: names, titles and how each is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from bench.compare.metric_info import METRICS, MetricInfo

EXACT_SUFFIX = "_exact"  # of metrics against the video of many steps
# Alone for a video; all others compare it with a reference.
CAPTION_KEYS = ("caption_items", "caption_right")


def from_metrics(values: dict[str, float], suffix: str = "") -> dict[str, float]:
    """Metrics of one comparison as quantities of a video: what should be 0 becomes its distance from 0.

    Values that are not finite say nothing and are left out.
    """
    return {
        key + suffix: abs(value) if METRICS[key].better == "zero" else value
        for key, value in values.items()
        if key in METRICS and math.isfinite(value)
    }


def quality_metrics(keys: Iterable[str], exact_steps: int) -> list[dict[str, Any]]:
    """What a report has to know about each metric among ``keys``, PSNR to the uncached video first."""
    present = set(keys)
    described = []
    for suffix, reference in (("", "uncached"), (EXACT_SUFFIX, f"{exact_steps} steps")):
        for key, info in METRICS.items():
            if key + suffix in present:
                described.append(_described(info, suffix, reference))
    return described


def _described(info: MetricInfo, suffix: str, reference: str) -> dict[str, Any]:
    if info.key in CAPTION_KEYS:
        title = info.title.capitalize()
    else:
        title = f"{info.title[0].upper()}{info.title[1:]} to {reference}"
    about = info.about[0].upper() + info.about[1:] + "."
    if info.better == "zero":
        info = replace(info, better="lower")
        about += " Its absolute value."
    if suffix:
        about += f" Against the uncached video of {reference}, of the same prompt and seed."
    return {
        "key": info.key + suffix,
        "title": title,
        "unit": info.unit,
        "digits": info.digits,
        "better": info.better,
        "about": about,
    }
