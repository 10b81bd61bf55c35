"""JSON in which every entry counts: repeated keys, and NaN and Infinity, are refused."""

from __future__ import annotations

import json
from typing import Any


def decode(text: str, start: int = 0) -> tuple[Any, int]:
    """Return the JSON value at `text[start:]` and the position after it.

    Raises:
        json.JSONDecodeError: there is no JSON value; the error has the position.
        ValueError: a key is repeated, a number is NaN, Infinity or too long, or nesting is too deep.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_refuse_constant, parse_int=_read_int)
    try:
        return decoder.raw_decode(text, start)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def decode_all(text: str) -> Any:
    """Return the one JSON value that `text` holds.

    Raises:
        json.JSONDecodeError: there is no JSON value, or something follows it.
        ValueError: as `decode`.
    """
    start = skip_blanks(text, 0)
    value, end = decode(text, start)
    end = skip_blanks(text, end)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def skip_blanks(text: str, start: int) -> int:
    """Return the first position from `start` on that is not white space in JSON."""
    while start < len(text) and text[start] in " \t\n\r":
        start += 1
    return start


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            raise ValueError(f"key {key!r} is given twice")
        entries[key] = value
    return entries


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number that can be used")


def _read_int(digits: str) -> int:
    try:
        return int(digits)
    except ValueError as error:
        raise ValueError(f"a number of {len(digits)} digits is too long") from error
