"""What a check of the doctor finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from opensora.environment import how_to_get_packages, is_environment


@dataclass(frozen=True)
class Finding:
    """What a check found about one thing.

    Attributes:
        state: "problem": sampling fails, or gives wrong videos; "warning": it may be intended, or costs something.
        text: what was found.
        fix: what to do about it, in one sentence; empty if nothing.
    """

    state: Literal["ok", "warning", "problem"]
    text: str
    fix: str = ""


Check = Callable[[], list[Finding]]


def ok(text: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding("ok", text)


def warning(text: str, fix: str) -> Finding:
    """Return a finding that may be intended, or costs something, while videos come out right."""
    return Finding("warning", text, fix)


def problem(text: str, fix: str) -> Finding:
    """Return a finding that makes sampling fail, or give wrong videos."""
    return Finding("problem", text, fix)


def pip(arguments: str) -> str:
    """Return the advice to run pip or, where Python is the system's own, how to get packages otherwise."""
    return f"run: pip {arguments}" if is_environment() else how_to_get_packages()
