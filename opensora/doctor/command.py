"""The command line of ``python -m opensora.doctor``."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from opensora.cli.arguments import OneLineParser
from opensora.doctor.finding import Finding, run_check
from opensora.errors import run_command

EXIT_PROBLEM = 1
_INDENT = " " * 11  # two blanks, the longest state ("warning"), and two more

Check = Callable[[], list[Finding]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if all is fine, also with warnings, and 1 if something needs fixing."""
    options = build_parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    if options.write_reference:
        return run_command(_write_reference)
    return run_command(lambda: diagnose(options.config, options.json))


def build_parser() -> OneLineParser:
    """The parser of this command."""
    parser = OneLineParser(
        prog="python -m opensora.doctor",
        description="Say what this installation has, and what is wrong with it; it takes about half a minute.",
        epilog="Exit code 0: all is fine, or there are warnings only; 1: something needs fixing.",
        allow_abbrev=False,
    )
    parser.add_argument("config", nargs="?", help="sampling config whose weights are looked for, too")
    parser.add_argument("--json", action="store_true", help="print JSON, for bug reports")
    parser.add_argument(
        "--write-reference",
        action="store_true",
        help="after a new training of the mini model: write what its sampling is compared with",
    )
    return parser


def diagnose(config: str | None, as_json: bool) -> int:
    """Print what all checks find, and return the exit code."""
    found: dict[str, list[Finding]] = {}
    for title, checks in sections(config):
        with _silence():
            found[title] = [finding for check in checks for finding in run_check(check)]
        if not as_json:
            _print_section(title, found[title])
    problems, cautions = (
        sum(finding.state == state for findings in found.values() for finding in findings)
        for state in ("problem", "warning")
    )
    if as_json:
        content = {title: [asdict(finding) for finding in findings] for title, findings in found.items()}
        print(json.dumps({"problems": problems, "warnings": cautions, "findings": content}, indent=1))
    else:
        print(f"{_count(problems, 'problem')}, {_count(cautions, 'warning')}")
    return EXIT_PROBLEM if problems else 0


def sections(config: str | None) -> Iterator[tuple[str, list[Check]]]:
    """Titles and checks in the order of printing; the quick ones first, and what explains others before these."""
    from opensora.doctor import devices, encoder, environment, extras, golden, versions, weights

    yield "versions", [versions.check_versions, versions.check_requirements, versions.check_numpy]
    yield "other packages", [extras.check_torchvision, extras.check_accelerators, versions.check_colossalai]
    yield "devices", [devices.check_devices, environment.check_threads]
    yield "environment", [devices.check_space, environment.check_hub_variables]
    yield "video", [encoder.check_encoder]
    yield "weights of the published model", [lambda: weights.check_weights(weights.PUBLISHED, required=False)]
    if config is not None:
        yield f"weights of {config}", [lambda: weights.check_weights(config, required=True)]
    yield "sampling", [golden.check_weights_unchanged, golden.check_sampling]


def _write_reference() -> int:
    from opensora.doctor.reference import write_reference

    print(f"wrote {write_reference()}")
    return 0


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep libraries from talking into the report; what they complain about is checked."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _print_section(title: str, findings: Sequence[Finding]) -> None:
    print(title)
    for finding in findings:
        print(f"  {finding.state:<{len(_INDENT) - 2}}{finding.text}")
        if finding.fix:
            print(f"{_INDENT}-> {finding.fix}")
    print(flush=True)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' * (number != 1)}"
