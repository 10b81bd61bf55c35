"""Checks of option values: each says in one sentence what is wrong, what was expected and what was given."""

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any


def is_whole(value: Any) -> bool:
    """True for integers of any library; True and False are not numbers here."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """True for real numbers other than infinities and NaN; True and False are not numbers here."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def is_list(value: Any) -> bool:
    """True for lists and tuples; a string is a sequence too, but never a list of numbers."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def choices(given: Any, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the nearest known name, if one is near, and all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(str(given), names, n=1, cutoff=0.4)
    suggestion = f", did you mean '{nearest[0]}'?" if nearest else ""
    return f"{suggestion} (valid: {', '.join(names)})"


def check_keys(what: str, options: Iterable[Any], known: Iterable[str]) -> None:
    """Refuse, with a ValueError, the first of `options` that is not a known key."""
    known = list(known)
    for key in options:
        if key not in known:
            raise ValueError(f"unknown {what} '{key}'{choices(key, known)}")


def check_count(name: str, value: Any) -> None:
    """Refuse, with a ValueError, anything but a whole number >= 1."""
    if not is_whole(value) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")


def check_positive(name: str, value: Any) -> None:
    """Refuse, with a ValueError, anything but a finite number above 0."""
    if not is_finite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def check_weight(name: str, value: Any) -> None:
    """Refuse, with a ValueError, anything but a finite number >= 0."""
    if not is_finite(value) or value < 0:
        raise ValueError(f"{name} must be a finite number >= 0 (0 turns it off), got {value!r}")


def check_choice(name: str, value: Any, known: Iterable[str]) -> None:
    """Refuse, with a ValueError, anything but one of the known names."""
    known = list(known)
    if value not in known:
        raise ValueError(f"{name} {value!r} is unknown{choices(value, known)}")


def whole_numbers(name: str, value: Any, minimum: int) -> tuple[int, ...]:
    """Return a list of whole numbers as a tuple.

    Raises:
        ValueError: `value` is empty, is not a list, or holds anything but whole numbers of at least `minimum`.
    """
    if not is_list(value) or not value or not all(is_whole(entry) and entry >= minimum for entry in value):
        raise ValueError(f"{name} must be a list of whole numbers >= {minimum} such as [{minimum}], got {value!r}")
    return tuple(int(entry) for entry in value)


def step_window(name: str, value: Any) -> tuple[int, int] | tuple[float, float]:
    """Return two ints (1-based steps, both included) or two floats in [0, 1] (fractions of a run) as a tuple.

    Raises:
        ValueError: `value` is anything else, or the first step or fraction lies behind the last.
    """
    if is_list(value) and len(value) == 2 and all(map(is_finite, value)) and value[0] <= value[1]:
        first, last = value
        if is_whole(first) and is_whole(last):
            if first >= 1:
                return int(first), int(last)
        elif first >= 0 and last <= 1:
            return float(first), float(last)
    raise ValueError(
        f"{name} must be a first and a last step counted from 1 such as (10, 90), "
        f"or two ascending fractions of the run such as (0.1, 0.9), got {value!r}"
    )
