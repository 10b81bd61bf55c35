"""Text to video: `python scripts/inference.py [CONFIG] [--prompt "..."]`; --help lists the flags."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

# A checkout that is not installed works, too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opensora.config.command_line import parse_arguments  # noqa: E402

# Everything else is imported where it is used: --help and errors answer before torch could be loaded.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    from opensora.utils.errors import run_command

    arguments = sys.argv[1:] if arguments is None else arguments
    config_path, flags, cfg_options = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    return run_command(lambda: sample(config_path, flags, cfg_options, arguments))


def sample(config_path: str, flags: dict, cfg_options: dict, arguments: Sequence[str]) -> int:
    """Check everything that can be checked without torch, then sample all prompts.

    ``arguments`` are those that the others were parsed from, for the command that a draft run suggests.
    """
    set_log_level(flags["verbose"])
    from opensora.config.loading import load_config
    from opensora.drafts import final_command, planned_samples, write_overview
    from opensora.utils.files import make_output_folder
    from opensora.utils.run_prompts import read_prompts
    from opensora.utils.weights import locate_weights

    config = load_config(config_path, flags, cfg_options)
    set_log_level(config.verbose)
    prompts = planned_samples(config, read_prompts(config))
    weights = locate_weights(config)
    make_output_folder(config.save_dir)

    from opensora.utils.cache_memory import check_cache_memory
    from opensora.utils.compiler import check_compiler
    from opensora.utils.device import check_device

    device = check_device(config.device)
    if config.compile:
        check_compiler(device)
    weights = weights.downloaded()
    check_cache_memory(weights.applied_to(config), len(prompts), device)

    from opensora.sampling_run import results_table, sample_all

    results = []
    try:
        for result in sample_all(config, prompts, weights):
            results.append(result)
    finally:
        # Also after an interrupt or an error: what is finished is kept.
        if results:
            print(results_table(results))
        if results and config.draft:
            sheets = ", ".join(map(str, write_overview(results)))
            print(f"look at {sheets}, then render what you choose; the drafts of least risk would be\n")
            print(final_command(arguments, results))
    return 0


def set_log_level(verbose: int | None) -> None:
    """Messages of our own packages: 0 warnings only, 1 (and None) progress, 2 everything."""
    level = {0: logging.WARNING, None: logging.INFO, 1: logging.INFO}.get(verbose, logging.DEBUG)
    for name in ("opensora", "adacache"):
        logging.getLogger(name).setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
