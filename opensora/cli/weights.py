"""The command line of ``scripts/weights.py``: list, verify and download the weights that a config needs."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opensora.cli.arguments import CfgOptions, OneLineParser
from opensora.errors import WeightsError, run_command
from opensora.weights import hub
from opensora.weights.layout import PIECES, describe_format, weight_files
from opensora.weights.locate import Piece, find_piece

DEFAULT_CONFIG = "configs/sample_adacache.py"
EXIT_BAD = 1  # something is damaged or missing

_COMMANDS = {
    "list": "what a config needs: repository, size, where it is, format",
    "verify": "prove it complete and undamaged; exit code 1 if something is not",
    "download": "fetch what is missing; finished files are kept when it is interrupted",
}


def build_parser() -> tuple[OneLineParser, dict[str, OneLineParser]]:
    """The parser and those of its commands by name."""
    parser = OneLineParser(description="List, verify and download the weights of a config.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {}
    for name, text in _COMMANDS.items():
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
    return parser, parsers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser, parsers = build_parser()
    options, unknown = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    if unknown:
        parsers[options.command].parse_args(unknown)  # it knows which flags its command has
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("opensora.weights").setLevel(logging.INFO)
    task = {"list": list_weights, "verify": verify_weights, "download": download_weights}[options.command]
    return run_command(lambda: task(options))


def list_weights(options: argparse.Namespace) -> int:
    """Print a line for each piece."""
    wanted, weights_dir, _ = _wanted(options)
    rows = [("piece", "repository or path", "size", "found", "format")]
    for name, source in wanted.items():
        try:
            rows.append(_row(find_piece(name, source, weights_dir)))
        except WeightsError as error:
            rows.append((PIECES[name], source, "-", f"unusable: {error}", "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]))
    return 0


def verify_weights(options: argparse.Namespace) -> int:
    """Print what was found about each piece."""
    from opensora.weights.verify import Finding, check_checksums, check_piece

    wanted, weights_dir, kinds = _wanted(options)
    pieces: list[Piece] = []
    findings: dict[str, list[Finding]] = {}
    for name, source in wanted.items():
        try:
            pieces.append(find_piece(name, source, weights_dir))
            findings[name] = check_piece(pieces[-1], kinds[name])
        except WeightsError as error:
            findings[name] = [Finding("damaged", str(error))]
    for name, more in ({} if options.quick else check_checksums(pieces)).items():
        findings[name] += more
    for name, source in wanted.items():
        path = next((piece.path for piece in pieces if piece.name == name and piece.is_complete), None)
        print(f"{PIECES[name]}  {source}" + ("" if path is None or str(path) == source else f"  in {path}"))
        for finding in findings[name]:
            print(f"  {finding.state:<9}  {finding.text}")
    bad = [PIECES[name] for name, found in findings.items() if any(finding.is_bad for finding in found)]
    print(f"not usable: {', '.join(bad)}" if bad else "all weights can be used")
    return EXIT_BAD if bad else 0


def download_weights(options: argparse.Namespace) -> int:
    """Fetch what is missing, and say before how much that is."""
    from opensora.weights.copying import cached_files, copy_from_cache
    from opensora.weights.download import check_space, fetch, free_space, plan, root_folder, target_folder

    wanted, weights_dir, _ = _wanted(options)
    pieces = [find_piece(name, source, weights_dir) for name, source in wanted.items()]
    problems, to_copy, to_fetch = [], [], []
    for piece in pieces:
        if piece.is_complete and not piece.damage():
            if piece.place == "hub cache" and weights_dir is not None:
                to_copy.append(piece)
            else:
                print(f"{PIECES[piece.name]} {piece.wanted}: in {piece.path}")
        elif piece.repo is None:
            problems.append(_not_downloadable(piece))
        else:
            to_fetch.append(piece)
    transfers = plan(to_fetch, weights_dir)
    sizes = [transfer.size for transfer in transfers]
    for transfer in transfers:
        print(transfer)
    for piece in to_copy:
        sizes.append(sum(file.stat().st_size for file in cached_files(piece)))
        print(f"{PIECES[piece.name]} {piece.wanted}: {hub.size_text(sizes[-1])} to copy from the hub's cache")
    if sizes:
        folder = root_folder(weights_dir)
        print(
            f"{hub.size_text(sum(sizes))} in all; {hub.size_text(free_space(folder))} are free in {folder}", flush=True
        )
        check_space(sum(sizes), weights_dir)
    folders, failed = fetch(transfers, weights_dir)
    for piece in to_copy:
        folders[piece.name] = target_folder(piece, pieces, weights_dir)
        copy_from_cache(piece, folders[piece.name])
    for name, folder in folders.items():
        print(f"{PIECES[name]} {wanted[name]}: in {folder}")
    for problem in [*problems, *failed]:
        print(f"error: {problem}", file=sys.stderr)
    return EXIT_BAD if problems or failed else 0


def _not_downloadable(piece: Piece) -> str:
    what = f"{piece.name}.from_pretrained='{piece.wanted}'"
    if piece.path is None:
        return f"{what} is neither a folder, a file nor the name of a hub repository; correct it"
    lacks = "; ".join(piece.damage()) or f"it lacks {', '.join(piece.gaps)}"
    return f"{what} is a folder of your own, which is not downloaded: {lacks}"


def _wanted(options: argparse.Namespace) -> tuple[dict[str, str], str | None, dict[str, str]]:
    """``from_pretrained`` of every piece, the folder of weights, and the ``type`` of every piece."""
    from opensora.config.loading import load_config

    config: Any = load_config(options.config, None, options.cfg_options)
    weights_dir = options.weights_dir if options.weights_dir is not None else getattr(config, "weights_dir", None)
    if options.command != "download" and weights_dir is not None and not Path(weights_dir).expanduser().is_dir():
        raise WeightsError(
            f"weights_dir '{weights_dir}' is no folder; correct it, or let the command download make and fill it"
        )
    sections = {name: getattr(config, name) for name in PIECES}
    wanted = {name: section.from_pretrained for name, section in sections.items()}
    return wanted, weights_dir, {name: section.type for name, section in sections.items()}


def _row(piece: Piece) -> tuple[str, ...]:
    label = PIECES[piece.name]
    if piece.is_complete:
        size = sum(file.stat().st_size for file in weight_files(piece.path))
        return label, piece.wanted, hub.size_text(size), f"{piece.place} {piece.path}", describe_format(piece.path)
    found = "missing" if piece.path is None else f"incomplete: {piece.path} lacks {', '.join(piece.gaps)}"
    return label, piece.wanted, hub.size_text(_size_on_hub(piece)), found, "-"


def _size_on_hub(piece: Piece) -> int | None:
    """Bytes of a repository, by the hub's list if they are not known."""
    from opensora.weights.layout import needed_files

    if piece.repo is None:
        return None
    if piece.wanted in hub.KNOWN_SIZES or not hub.is_reachable():
        return hub.KNOWN_SIZES.get(piece.wanted)
    try:
        sizes = {file.name: file.size for file in hub.repo_files(piece.repo)}
    except WeightsError:
        return None
    return sum(sizes[name] for name in needed_files(list(sizes), piece.name, piece.repo_folder))
