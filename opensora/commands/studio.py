"""Sample, watch and compare in the browser: a page that runs the sampling command, served on this machine.

Results go to the folders that `sample` chooses, below --save-dir; each command can resume what the other one began.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from opensora.cli.arguments import OneLineParser
from opensora.errors import ConfigError, run_command
from opensora.files import REPO_ROOT
from opensora.studio import LOCAL

PASSWORD = "OPENSORA_STUDIO_PASSWORD"  # environment variable that can be set instead of --password
SHORTEST_PASSWORD = 8


def build_parser() -> OneLineParser:
    """Return the parser of this command."""
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="configs to offer beside the bundled ones")
    parser.add_argument("--save-dir", metavar="DIR", default="samples", help="folder of all results (default: samples)")
    parser.add_argument("--weights-dir", metavar="DIR", help="folder of downloaded weights")
    parser.add_argument("--bench", metavar="DIR", type=Path, help="folder of a bench, whose page is shown, too")
    parser.add_argument("--port", type=int, metavar="N", help="of the page (default: a free one from 7860 on)")
    parser.add_argument(
        "--host", default=LOCAL[0], metavar="NAME", help="0.0.0.0 serves other machines, too; needs a password"
    )
    parser.add_argument(
        "--password", metavar="TEXT", help=f"asked of whoever opens the page (or in the variable {PASSWORD})"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    options.password = options.password or os.environ.get(PASSWORD) or None
    if options.port is not None and not 1 <= options.port <= 65535:
        parser.error(f"--port is {options.port}; give one from 1 to 65535")
    if ":" in options.host:
        parser.error(f"--host is {options.host}; give a name or an IPv4 address")
    if options.host not in LOCAL and options.password is None:
        parser.error(f"--host {options.host} lets other machines in; give a --password, too")
    if options.password is not None and len(options.password) < SHORTEST_PASSWORD:
        parser.error(f"the password has fewer than {SHORTEST_PASSWORD} characters; give a longer one")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    return run_command(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Check what can be checked without Gradio, then serve the page."""
    if find_spec("gradio") is None:
        file = REPO_ROOT / "requirements-studio.txt"
        what = f"-r {file}" if file.is_file() else '"opensora-adacache[studio]"'
        raise ConfigError(f"the studio needs Gradio; run: {sys.executable} -m pip install {what}")
    from opensora.studio.studio import Studio

    studio = Studio(Path(options.save_dir), options.configs, options.weights_dir, options.bench)
    try:
        with TemporaryDirectory(prefix="opensora-studio-") as uploads:
            os.environ["GRADIO_TEMP_DIR"] = uploads
            from opensora.studio.page import serve

            serve(studio, options.host, options.port, options.password, _ready)
    finally:
        studio.close()
    return 0


def _ready(address: str) -> None:
    print(f"the studio is at {address} (Ctrl-C ends it)", flush=True)
