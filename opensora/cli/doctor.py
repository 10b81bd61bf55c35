"""`python -m opensora.doctor`: what this installation has, and what is wrong with it."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from opensora.cli import doctor_packages
from opensora.cli.arguments import OneLineParser
from opensora.cli.doctor_packages import Check, Finding, pip, problem
from opensora.errors import one_line, run_command

EXIT_PROBLEM = 1

_INDENT = " " * 11  # two blanks, the longest state ("warning"), and two more


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if nothing is worse than a warning, and 1 if something needs fixing."""
    parser = OneLineParser(
        prog="python -m opensora.doctor",
        description="Say what this installation has, and what is wrong with it; it takes some seconds.",
        epilog="Exit code 0: all is fine, or there are warnings only; 1: something needs fixing.",
        allow_abbrev=False,
    )
    parser.add_argument("config", nargs="?", help="sampling config whose weights are checked, too")
    parser.add_argument("--json", action="store_true", help="print JSON, for bug reports")
    options = parser.parse_args(arguments)
    return run_command(lambda: diagnose(options.config, options.json))


def diagnose(config: str | None, as_json: bool) -> int:
    """Run all checks, print what they find, and return the exit code."""
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
    """Yield titles and checks in the order of printing: quick ones first, and causes before their consequences."""
    yield from doctor_packages.sections()
    try:
        with _silence():
            from opensora.cli import doctor_runs  # it imports all packages, of which one may be missing or broken
    except (Exception, SystemExit) as error:
        finding = _as_finding(error)
        yield "everything else", [lambda: [finding]]
    else:
        yield from doctor_runs.sections(config)


def run_check(check: Check) -> list[Finding]:
    """Return what `check` finds; a check that raises is itself a problem."""
    try:
        return check()
    except (Exception, SystemExit) as error:
        return [_as_finding(error)]


def _as_finding(error: BaseException) -> Finding:
    """Turn the error of a check, or of importing what it needs, into a finding."""
    if isinstance(error, ModuleNotFoundError):
        text = f"this cannot be checked without the package {error.name}"
        return problem(text, pip("install -r requirements.txt"))
    text = f"this could not be checked: {type(error).__name__}: {one_line(error)}"
    return problem(text, "look at the other findings first; if they are all ok, please report this one as a bug")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep messages of libraries out of the report; what they warn about is checked."""
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
