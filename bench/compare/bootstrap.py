"""Means with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval


def interval(
    values: Sequence[float], groups: Sequence[Hashable] | None = None, seed: int = 0, draws: int = 2000
) -> tuple[float, float, float]:
    """Return the mean and its 95 % percentile bootstrap interval (mean, low, high); the same for the same arguments.

    For a single group, low and high are the mean.

    Args:
        values: finite numbers, such as one per video.
        groups: what is drawn instead of single values, such as the prompt of each video: videos of one prompt are
            alike, and taken as independent they would make the interval too narrow. The values of a group are averaged
            first, so every group counts the same, however many values it has.
        seed: of the draws.
        draws: how often the groups are drawn anew, with replacement.

    Raises:
        ValueError: there is no value, one is not finite, or there is not one group per value.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError("a bootstrap interval needs a list of one finite number or more")
    if groups is not None:
        numbers = group_means(numbers, groups)
    drawn = np.random.default_rng(seed).integers(len(numbers), size=(draws, len(numbers)))
    low, high = np.percentile(numbers[drawn].mean(axis=1), LEVEL)
    return float(numbers.mean()), float(low), float(high)


def group_means(values: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
    """Return the mean of each group (G,), in the order in which the groups first appear.

    Raises:
        ValueError: there is not one group per value.
    """
    if len(groups) != len(values):
        raise ValueError(f"got {len(values)} values and {len(groups)} groups; give one group per value")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    index = np.array([numbers[group] for group in groups])
    return np.bincount(index, weights=values) / np.bincount(index)
