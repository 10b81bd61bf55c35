"""JSON in which every entry counts: repeated keys, and NaN and Infinity, are refused."""

from __future__ import annotations

import json
import math
from typing import Any


def decode(text: str) -> Any:
    """Return the one JSON value that `text` holds.

    Raises:
        json.JSONDecodeError: there is no JSON value, or something follows it; the error has the position.
        ValueError: a key is repeated, a number is NaN, Infinity or too long, or nesting is too deep.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse_constant,
            parse_int=_read_int,
            parse_float=_read_float,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            raise ValueError(f"key {key!r} is given twice")
        entries[key] = value
    return entries


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number that can be used")


def _read_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is too large a number")
    return number


def _read_int(digits: str) -> int:
    try:
        return int(digits)
    except ValueError as error:
        raise ValueError(f"a number of {len(digits)} digits is too long") from error
