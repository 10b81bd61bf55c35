"""List, verify and download the weights of a config."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from opensora.cli.arguments import CfgOptions, OneLineParser
from opensora.errors import run_command

DEFAULT_CONFIG = "configs/sample_adacache.py"
COMMANDS = {
    "list": "what a config needs: repository, size, where it is, format",
    "verify": "check that all is complete and undamaged; exit code 1 if something is not",
    "download": "fetch what is missing; finished files are kept when it is interrupted",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("opensora.weights").setLevel(logging.INFO)
    return run_command(lambda: run(options), resumes=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command and its options."""
    parser = OneLineParser(
        description="List, verify and download the weights of a config.",
        epilog="examples: %(prog)s list configs/sample.py; %(prog)s download --weights-dir /data/weights",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {}
    for name, text in COMMANDS.items():
        command = parsers[name] = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument(
            "config", nargs="?", default=DEFAULT_CONFIG, help=f"sampling config (default: {DEFAULT_CONFIG})"
        )
        command.add_argument(
            "--weights-dir",
            metavar="DIR",
            help="folder of downloaded weights (default: the config's weights_dir, else the hub's cache)",
        )
        command.add_argument(
            "--cfg-options", nargs="+", action=CfgOptions, metavar="KEY=VALUE", help="any entry of the config"
        )
    parsers["verify"].add_argument("--quick", action="store_true", help="do not read the data: no checksums")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        parsers[options.command].parse_args([options.config, *unknown])  # names the command's own flags in the error
    return options


def run(options: argparse.Namespace) -> int:
    """Run the command that was asked for and return its exit code."""
    if options.command == "verify":
        from opensora.cli.verify import verify_weights  # loads torch, to compare with the models

        return verify_weights(options)
    from opensora.cli.weights import download_weights, list_weights

    return (list_weights if options.command == "list" else download_weights)(options)
