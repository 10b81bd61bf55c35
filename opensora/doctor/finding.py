"""What a check found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from opensora.errors import one_line

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: "problem" needs fixing, "warning" may be meant so.
        text: what was found.
        fix: what to do about it, in one sentence; empty if nothing.
    """

    state: State
    text: str
    fix: str = ""


def ok(text: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", text)


def warning(text: str, fix: str) -> Finding:
    """It may be meant so, or costs something, but videos come out right."""
    return Finding("warning", text, fix)


def problem(text: str, fix: str) -> Finding:
    """Sampling fails, or gives wrong videos."""
    return Finding("problem", text, fix)


def run_check(check: Callable[[], list[Finding]]) -> list[Finding]:
    """What ``check`` finds; a check that fails is itself a problem."""
    try:
        return check()
    except ModuleNotFoundError as error:
        return [
            problem(f"this cannot be checked without the package {error.name}", "run: pip install -r requirements.txt")
        ]
    except (Exception, SystemExit) as error:
        text = f"this could not be checked: {type(error).__name__}: {one_line(error)}"
        return [problem(text, "look at the other findings first; if they are all ok, please report this one as a bug")]
