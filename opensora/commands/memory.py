"""Print the memory that each stage of a run would take, as a table; the command takes the flags of the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opensora.cli.arguments import parse_arguments
from opensora.errors import ConfigError, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    path, flags, options = parse_arguments(arguments, "Print how much memory each stage of a run would take.")
    return run_command(lambda: _print(path, flags, options))


def _print(path: str, flags: dict[str, Any], options: dict[str, Any]) -> int:
    from opensora.config.loading import load_config

    for name in ("words", "from_sidecar"):
        if flags.pop(name) is not None:
            raise ConfigError(f"command line: --{name.replace('_', '-')} is for sampling; give a config and its flags")
    config = load_config(path, flags, options)
    low_memory = load_config(path, {**flags, "low_memory": True}, options)

    from opensora.memory.report import print_tables  # loads torch, so only after the config is checked

    print_tables(config, low_memory)
    return 0
