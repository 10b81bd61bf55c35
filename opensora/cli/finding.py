"""What a check of the doctor finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from opensora.environment import how_to_get_packages, is_environment


@dataclass(frozen=True)
class Finding:
    """What was found about one thing that was looked at.

    Attributes:
        state: "problem": sampling fails, or gives wrong videos; "warning": it may be meant so, or costs something.
        text: what was found.
        fix: what to do about it, in one sentence; empty if nothing.
    """

    state: Literal["ok", "warning", "problem"]
    text: str
    fix: str = ""


Check = Callable[[], list[Finding]]


def ok(text: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", text)


def warning(text: str, fix: str) -> Finding:
    """It may be meant so, or costs something, but videos come out right."""
    return Finding("warning", text, fix)


def problem(text: str, fix: str) -> Finding:
    """Sampling fails, or gives wrong videos."""
    return Finding("problem", text, fix)


def pip(arguments: str) -> str:
    """Return the advice to run pip or, where Python is the system's own, how to get packages otherwise."""
    return f"run: pip {arguments}" if is_environment() else how_to_get_packages()
