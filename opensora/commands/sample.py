"""Sample videos: read and check the configuration and the prompts, then load torch and make what is missing."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from opensora.cli.arguments import parse_arguments
from opensora.environment import no_collection
from opensora.errors import KEPT, message_for_the_user, run_command

EXIT_FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 1 if not all samples could be made, 2 if nothing was begun."""
    arguments = sys.argv[1:] if arguments is None else arguments
    config_path, flags, cfg_options = parse_arguments(arguments)
    if flags.pop("words"):
        return run_command(lambda: print_words(config_path, flags, cfg_options))
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    code = run_command(lambda: sample(config_path, flags, cfg_options, arguments), several=True, resumes=True)
    if code and os.environ.get("WORLD_SIZE", "1") != "1":
        # Process groups whose other members are gone would make the interpreter abort at exit.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def print_words(config_path: str, flags: dict[str, Any], cfg_options: dict[str, Any]) -> int:
    """Print what the model of the config was trained on."""
    from opensora.cli.command import words_of

    print(words_of(config_path, flags, cfg_options))
    return 0


def sample(config_path: str, flags: dict[str, Any], cfg_options: dict[str, Any], arguments: Sequence[str]) -> int:
    """Check everything that can be checked without torch, then sample all prompts.

    `arguments` is the command line itself, for the ledger and the command that drafts suggest.
    """
    from opensora.acceleration.launch import check_axes, read_launch
    from opensora.cli.command import Plan, prepare
    from opensora.cli.session import open_session

    launch = read_launch()
    set_log_level(flags["verbose"] if launch.rank == 0 else 0)

    def read(prompt_text: str | None = None) -> Plan:
        plan = prepare(config_path, flags, cfg_options, prompt_text)
        check_axes(launch.world_size, plan.config.guidance_parallel, plan.config.sequence_parallel)
        set_log_level(plan.config.verbose if launch.rank == 0 else 0)
        return plan

    if not launch.is_alone:
        from opensora.cli.parallel import sample_in_parallel

        return sample_in_parallel(launch, read, arguments, flags["prompt_path"])
    plan = read()
    with open_session(plan) as session:
        try:
            session.announce()
            if session.plan.due_batches or session.failed:
                with no_collection():
                    from opensora.cli.run import run

                run(session, arguments)
        except Exception as error:
            message = message_for_the_user(error)
            if message is None or not session.begun:
                raise
            kept = f"; {KEPT}" if isinstance(error, OSError) else ""
            print(f"error: {message}{kept}", file=sys.stderr)
            return EXIT_FAILED
        finally:
            # Also after an interrupt or an error: what is finished is kept.
            session.report(arguments)
    return EXIT_FAILED if session.failed else 0


def set_log_level(verbose: int | None) -> None:
    """Set which messages of our own packages are logged: 0 warnings only, 1 (and None) progress, 2 everything."""
    level = {0: logging.WARNING, None: logging.INFO, 1: logging.INFO}.get(verbose, logging.DEBUG)
    for name in ("opensora", "adacache"):
        logging.getLogger(name).setLevel(level)
