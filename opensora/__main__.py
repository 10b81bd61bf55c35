"""The command `opensora` of an installation: `opensora sample CONFIG --prompt "..."`; --help lists all commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from opensora.cli.arguments import OneLineParser
from opensora.environment import PROJECT, enter_environment, installed_version, leave
from opensora.files import REPO_ROOT

COMMANDS = {
    "sample": ("opensora.commands.sample", "make videos and images from prompts"),
    "studio": ("opensora.commands.studio", "sample, watch and compare in the browser"),
    "compare": ("opensora.commands.compare", "one prompt with and without a cache, side by side"),
    "calibrate": ("opensora.commands.calibrate", "find out which steps of a model need not be computed"),
    "weights": ("opensora.commands.weights", "list, verify and download weights"),
    "trace": ("opensora.commands.trace", "print, draw or compare what the cache did in a run"),
    "memory": ("opensora.commands.memory", "what each stage of a run would take"),
    "doctor": ("opensora.cli.doctor", "what this installation has, and what is wrong with it"),
}
WHERE = f"""configs/ and assets/ are found from every folder. A config of your own can inherit from those in
{REPO_ROOT}"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command that the first argument names, with the other arguments, and exit with its code."""
    enter_environment()
    parser = OneLineParser(
        prog="opensora",
        description="Open-Sora v1.2 with AdaCache: text to video.",
        epilog="\n".join([*(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()), "", WHERE]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"opensora {installed_version(PROJECT) or 'of a checkout that is not installed'}"
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument(
        "command", metavar="COMMAND", choices=COMMANDS, help="one of those below; each has its own --help"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the command")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments or ["--help"])
    # The parsers of the commands show this name.
    sys.argv[:] = [f"opensora {options.command}", *options.arguments]
    leave(import_module(COMMANDS[options.command][0]).main())


if __name__ == "__main__":
    main()
