"""`python -m opensora.memory [CONFIG] [flags of the sampler]`: what each stage would take, as a table."""

import sys
from collections.abc import Sequence
from typing import Any

from opensora.environment import explain_missing_packages

explain_missing_packages()

from opensora.cli.arguments import parse_arguments  # noqa: E402
from opensora.config.loading import load_config  # noqa: E402
from opensora.errors import run_command  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    path, flags, options = parse_arguments(arguments)
    return run_command(lambda: _print(path, flags, options))


def _print(path: str, flags: dict[str, Any], options: dict[str, Any]) -> int:
    config = load_config(path, flags, options)
    low_memory = load_config(path, {**flags, "low_memory": True}, options)

    from opensora.cli.memory import print_tables  # loads torch, which errors in a config need not wait for

    print_tables(config, low_memory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
