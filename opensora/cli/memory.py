"""The stages of a config as a table, by arithmetic: `python -m opensora.memory [CONFIG] [flags of the sampler]`.

Published models need not be on the machine. The whole table is about a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from opensora.cli.arguments import parse_arguments
from opensora.config.schema import SampleConfig

CARD = 24_000_000_000  # bytes; cards sold as 24 GB have 24.1e9 to 25.8e9
CONTEXT = 500_000_000  # what CUDA and its libraries take on the card


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    from opensora.errors import run_command

    path, flags, options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: _print_tables(path, flags, options))


def _print_tables(path: str, flags: dict, options: dict) -> int:
    from opensora.config.loading import load_config

    config = load_config(path, flags, options)
    print(_heading(config, path))
    print(table(config))
    if not config.low_memory:
        print("\nwith --low-memory:")
        print(table(load_config(path, {**flags, "low_memory": True}, options)))
    return 0


def table(config: SampleConfig) -> str:
    """A line per stage, in GB, and whether the largest one fits a card of 24 GB."""
    from opensora.memory.estimate import estimate_stages
    from opensora.memory.report import FRAGMENTATION

    stages = estimate_stages(config, config.batch_size)
    lines = [f"{'GB':<12}{'weights':>9}{'activations':>13}{'cache':>8}{'total':>8}{'on a card':>11}"]
    for stage in stages:
        numbers = (stage.weights, stage.activations, stage.cache, stage.total, card_bytes(stage.total))
        lines.append(f"{stage.name:<12}" + "".join(f"{n / 1e9:{w}.2f}" for n, w in zip(numbers, _WIDTHS, strict=True)))
    needed = max(card_bytes(stage.total) for stage in stages)
    verdict = f"fits {CARD / 1e9:.0f} GB" if needed <= CARD else f"does not fit {CARD / 1e9:.0f} GB"
    extra = f"on a card: {FRAGMENTATION:.0%} more for fragmentation and {CONTEXT / 1e9:.1f} GB for CUDA"
    return "\n".join([*lines, f"{extra}; {needed / 1e9:.2f} GB at most: {verdict}"])


_WIDTHS = (9, 13, 8, 8, 11)


def card_bytes(total: int) -> int:
    """What a card must have for tensors of ``total`` bytes."""
    from opensora.memory.report import FRAGMENTATION

    return round(total * (1 + FRAGMENTATION)) + CONTEXT


def _heading(config: SampleConfig, path: str) -> str:
    size = f"{config.height} x {config.width} pixels, {config.num_frames} frames"
    return f"{path}: {size}, batches of {config.batch_size}, {config.dtype}"
