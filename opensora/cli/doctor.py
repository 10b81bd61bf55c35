"""`python -m opensora.doctor`: the report, and the checks that do not import the packages they look at.

Checks that do are in `doctor_runs`, so that these work even where a package is missing or broken.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec

from opensora.cli.arguments import OneLineParser
from opensora.cli.finding import Check, Finding, ok, pip, problem, warning
from opensora.environment import (
    OLDEST_PYTHON,
    installed_version,
    is_environment,
    requirements,
    unmet_requirements,
)
from opensora.errors import one_line, run_command

EXIT_PROBLEM = 1
SHOWN = ("torch", "diffusers", "transformers", "tokenizers", "safetensors", "mmengine", "colossalai", "av", "numpy")
SHOWN += ("pillow", "opensora-adacache")

_INDENT = " " * 11  # two blanks, the longest state ("warning"), and two more
_TIMEOUT = 90  # seconds; imports from a cold network disk are slow
_COLOSSALAI = "0.5.0"  # requirements-colossalai.txt
_NO_NUMPY_2 = (2, 3)  # from this version on, PyTorch's builds take NumPy 1 and 2
_TORCHVISION_OFFSET = 15  # torchvision 0.N is built for torch 2.(N - 15), and refuses to load with another one
# Module -> (distribution, import statement that reaches its compiled part). diffusers and transformers import them.
_ACCELERATORS = {
    "xformers": ("xformers", "import xformers.ops"),
    "flash_attn": ("flash-attn", "import flash_attn"),
    "apex": ("apex", "import torch, apex.normalization"),
}
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = ("1", "ON", "YES", "TRUE")


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
    parser.add_argument(
        "--write-reference",
        action="store_true",
        help="after the mini model was trained again: write the reference for its samples",
    )
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    if options.write_reference:
        return run_command(_write_reference)
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
    yield "versions", [check_versions, check_requirements, check_numpy]
    yield "other packages", [check_torchvision, check_accelerators, check_colossalai]
    yield "environment", [check_hub_variables]
    try:
        with _silence():
            from opensora.cli import doctor_runs  # it imports all packages
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


def check_versions() -> list[Finding]:
    """Report names and versions, and a Python that is too old."""
    version = platform.python_version()
    place = "" if is_environment() else ", not in a virtual environment"
    found = {name: installed_version(name) for name in SHOWN}
    packages = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    findings = [
        ok(f"python {version} on {platform.system()} {platform.machine()}{place}"),
        ok(packages or "no packages"),
    ]
    if sys.version_info[:2] < OLDEST_PYTHON:
        text = f"python {version} is older than {'.'.join(map(str, OLDEST_PYTHON))}"
        findings.append(problem(text, "make an environment with Python 3.11 or newer and install there"))
    return findings


def check_requirements() -> list[Finding]:
    """Find packages that are missing, too old or too new for this project."""
    if not requirements():
        fix = "install this project with 'pip install --no-deps -e .' in its folder"
        return [warning("it is not known which versions are needed: this project is not installed", fix)]
    unmet = unmet_requirements()
    if not unmet:
        return [ok("all packages are installed, in versions known to work")]
    names = {text: re.match(r"[\w.-]+", text)[0] for text in unmet}
    sentences = [f"{names[text]} {found} is installed, but {text} is needed" for text, found in unmet.items() if found]
    if missing := [names[text] for text, found in unmet.items() if found is None]:
        sentences.append(f"not installed: {', '.join(missing)}")
    quoted = [f"'{text}'" for text in unmet]
    return [problem("; ".join(sentences), pip(f"install {' '.join(quoted)}"))]


def check_numpy() -> list[Finding]:
    """Find a PyTorch built for NumPy 1, which cannot exchange arrays with NumPy 2."""
    numpy, torch = installed_version("numpy"), installed_version("torch")
    if numpy is None or torch is None or release(numpy) < (2,) or release(torch) >= _NO_NUMPY_2:
        return []
    fix = pip("install 'torch>=2.6' (or, to keep this PyTorch, 'numpy<2')")
    return [problem(f"torch {torch} was built for NumPy 1, but numpy {numpy} is installed", fix)]


def check_torchvision() -> list[Finding]:
    """Find a torchvision that does not fit PyTorch: it keeps T5 and the autoencoder from being imported."""
    if not is_importable("torchvision"):
        return [ok("torchvision is not installed; none is needed")]
    vision, torch = installed_version("torchvision"), installed_version("torch")
    name = f"torchvision {vision or 'of unknown version'}"
    fix = pip("uninstall torchvision (nothing here needs it), or install the one that belongs to your PyTorch")
    reason = import_error("import torchvision; torchvision.ops.nms")
    if reason is not None:
        return [problem(f"{name} is installed but cannot be imported ({reason}); transformers fails with it", fix)]
    if vision and torch:
        is_pair = release(vision)[:1] == (0,) and release(torch)[:2] == (2, release(vision)[1] - _TORCHVISION_OFFSET)
        if not is_pair:
            return [warning(f"{name} was not made for torch {torch}", fix)]
    return [ok(f"{name} fits")]


def check_accelerators() -> list[Finding]:
    """Check xformers, flash-attn and apex, which are not used here but do harm if they do not fit."""
    findings = []
    for module, (distribution, statement) in _ACCELERATORS.items():
        if not is_importable(module):
            continue
        name = f"{module} {installed_version(distribution) or 'of unknown version'}"
        reason = import_error(statement)
        if reason is not None:
            text = f"{name} is installed but cannot be imported ({reason}); diffusers or transformers may fail with it"
            findings.append(problem(text, pip(f"uninstall {distribution} (PyTorch's own attention is used)")))
        elif module == "apex" and release(installed_version("transformers") or "5") < (5,):
            text = f"{name} replaces T5's layer norm in this version of transformers; features differ in the last bits"
            findings.append(warning(text, pip("uninstall apex, if results must match those of other machines")))
        else:
            findings.append(ok(f"{name} fits, but is not used"))
    return findings or [ok("no xformers, flash-attn or apex; none is needed")]


def check_colossalai() -> list[Finding]:
    """Check colossalai, which only runs of several processes need."""
    version = installed_version("colossalai")
    if version is None:
        return [ok("colossalai is not installed; a single process needs none")]
    if version != _COLOSSALAI:
        text = f"colossalai {version} is installed; this project is tested with {_COLOSSALAI}"
        return [warning(text, pip("install --no-deps --no-build-isolation -r requirements-colossalai.txt"))]
    return [ok(f"colossalai {version}; what 'pip check' says about its pins can be ignored")]


def check_hub_variables() -> list[Finding]:
    """Find environment variables that forbid downloads."""
    forbidding = [name for name in _OFFLINE if os.environ.get(name, "").upper() in _TRUE]
    if not forbidding:
        return [ok("downloads of weights are allowed")]
    fix = f"run: unset {' '.join(forbidding)}, unless all weights are here"
    return [warning(f"{' and '.join(forbidding)} forbid{'s' * (len(forbidding) == 1)} downloads of weights", fix)]


def is_importable(module: str) -> bool:
    """Whether a top-level module can be found; importing it may still fail."""
    return find_spec(module) is not None


def import_error(statement: str) -> str | None:
    """Run an import statement in another Python process; return the last line of its error, None if it succeeds."""
    try:
        done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"no answer within {_TIMEOUT} seconds"
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"the process ended with code {done.returncode}"


def release(text: str) -> tuple[int, ...]:
    """Return the numbers of a version: (2, 13, 0) for "2.13.0+cpu"."""
    return tuple(int(number) for number in re.findall(r"\d+", text.split("+")[0])[:3])


def _as_finding(error: BaseException) -> Finding:
    """Turn the error of a check, or of importing what it needs, into a finding."""
    if isinstance(error, ModuleNotFoundError):
        text = f"this cannot be checked without the package {error.name}"
        return problem(text, pip("install -r requirements.txt"))
    text = f"this could not be checked: {type(error).__name__}: {one_line(error)}"
    return problem(text, "look at the other findings first; if they are all ok, please report this one as a bug")


def _write_reference() -> int:
    from opensora.cli.mini_reference import write_reference

    print(f"wrote {write_reference()}")
    return 0


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
