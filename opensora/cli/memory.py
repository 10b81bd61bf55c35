"""The stages of a config as a table, by arithmetic: what `python -m opensora.memory` prints.

Published models need not be on the machine. The whole table is about a GPU.
"""

from __future__ import annotations

from opensora.config.schema import SampleConfig
from opensora.memory.report import FRAGMENTATION, estimate_stages

CARD = 24_000_000_000  # bytes; cards sold as 24 GB have 24.1e9 to 25.8e9
CONTEXT = 500_000_000  # what CUDA and its libraries take on the card
_WIDTHS = (9, 13, 8, 8, 11)


def print_tables(config: SampleConfig, low_memory: SampleConfig) -> None:
    """The table of a config, and of what ``--low-memory`` makes of it."""
    size = f"{config.height} x {config.width} pixels, {config.num_frames} frames"
    print(f"{config.path}: {size}, batches of {config.batch_size}, {config.dtype}")
    print(_table(config))
    if not config.low_memory:
        print("\nwith --low-memory:")
        print(_table(low_memory))


def _table(config: SampleConfig) -> str:
    """A line per stage, in GB, and whether the largest one fits a card of 24 GB."""
    stages = estimate_stages(config, config.batch_size)
    lines = [f"{'GB':<12}{'weights':>9}{'activations':>13}{'cache':>8}{'total':>8}{'on a card':>11}"]
    for stage in stages:
        numbers = (stage.weights, stage.activations, stage.cache, stage.total, card_bytes(stage.total))
        lines.append(f"{stage.name:<12}" + "".join(f"{n / 1e9:{w}.2f}" for n, w in zip(numbers, _WIDTHS, strict=True)))
    needed = max(card_bytes(stage.total) for stage in stages)
    verdict = f"fits {CARD / 1e9:.0f} GB" if needed <= CARD else f"does not fit {CARD / 1e9:.0f} GB"
    extra = f"on a card: {FRAGMENTATION:.0%} more for fragmentation and {CONTEXT / 1e9:.1f} GB for CUDA"
    return "\n".join([*lines, f"{extra}; {needed / 1e9:.2f} GB at most: {verdict}"])


def card_bytes(total: int) -> int:
    """What a card must have for tensors of ``total`` bytes."""
    return round(total * (1 + FRAGMENTATION)) + CONTEXT
