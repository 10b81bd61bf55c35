"""Which samples go through the model together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from opensora.cli.plan import PlannedSample


def make_batches(samples: Sequence[PlannedSample]) -> list[list[PlannedSample]]:
    """The samples that can be made, in batches of neighbors with the same settings.

    Batches depend on the plan alone, not on what is finished: rounding differs between batches of different sizes, and
    a continued run is to give the same bytes as one that was never interrupted.
    """
    usable = [sample for sample in samples if sample.problem is None]
    batches = []
    for config, group in groupby(usable, key=lambda sample: sample.config):
        alike = list(group)
        batches += [alike[start : start + config.batch_size] for start in range(0, len(alike), config.batch_size)]
    return batches
