"""JSON of which every entry counts: repeated keys and numbers that are none are refused."""

from __future__ import annotations

import json
from typing import Any


def decode(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value at `text[start:]` and the position behind it.

    Raises:
        json.JSONDecodeError: no JSON value, with the place.
        ValueError: a repeated key, NaN or Infinity, a number too long to read, or nesting too deep to read.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_refuse_constant, parse_int=_read_int)
    try:
        return decoder.raw_decode(text, start)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def decode_all(text: str) -> Any:
    """The one JSON value that `text` holds.

    Raises:
        json.JSONDecodeError: no JSON value, or something behind it.
        ValueError: what `decode` refuses.
    """
    start = skip_blanks(text, 0)
    value, end = decode(text, start)
    end = skip_blanks(text, end)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def skip_blanks(text: str, start: int) -> int:
    """The first position from `start` on that is not JSON's white space."""
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
