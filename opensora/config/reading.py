"""From untyped entries to pydantic's dataclasses, and from pydantic's errors to one sentence for the user."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from opensora.config.schema import SECTIONS, STRICT, section_class, types_of
from opensora.errors import ConfigError, did_you_mean, shortened, suggest

_NOUNS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", Mapping[str, Any]: "a dict"}


@dataclass(frozen=True)
class Source:
    """Where the entries of a configuration come from, so that an error can say it."""

    path: str
    from_command_line: frozenset[str] = frozenset()  # dotted keys
    by_hand: str = "command line"  # where values come from that are not from the file

    def error(self, keys: str | tuple[str, ...], message: str) -> ConfigError:
        """A ConfigError that starts with the place where the blamed key (or one of several) was set."""
        keys = (keys,) if isinstance(keys, str) else keys
        set_by_hand = any(f"{name}.".startswith(f"{key}.") for name in self.from_command_line for key in keys)
        return ConfigError(f"{self.by_hand if set_by_hand else self.path}: {message}")


def read_fields(cls: type, entries: Mapping[str, Any], source: Source, section: str = "", **given: Any) -> Any:
    """Build the pydantic dataclass `cls` from config `entries`, where a list may stand for a tuple.

    Args:
        section: the config's name for these entries ("model"), empty at the top level.
        given: fields that are already built and are not read from `entries`.

    Raises:
        ConfigError: a key is unknown or missing, a value has the wrong type, or a number is out of its bounds.
    """
    fields = cls.__pydantic_fields__
    check_names(entries, fields.keys() - given.keys(), source, section)
    try:
        return cls(**{name: _as_tuple(value) for name, value in entries.items()}, **given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if not problem["loc"]:  # the dataclass' own check
            raise problem["ctx"]["error"] from None
        name = problem["loc"][0]
        if name in given:
            raise
        key, hint = f"{section}.{name}" if section else name, fields[name].annotation
        if name not in entries:
            raise source.error(key, f"'{key}' is missing; it must be {_described(hint)}") from None
        raise source.error(key, _sentence(problem, hint, entries[name], key)) from None


def read_section(section: str, entries: Mapping[str, Any], source: Source) -> Any:
    """Build the dataclass that the `type` of a section asks for; without one, that of the default type.

    Raises:
        ConfigError: as for `read_fields`, or the type is unknown, or an entry belongs to another type.
    """
    classes, chosen = SECTIONS[section], section_class(section, entries)
    if "type" in entries:
        known = tuple(name for cls in classes for name in types_of(cls))
        read_value(entries["type"], Literal[known], f"{section}.type", source)
    for name in entries:
        owners = [cls for cls in classes if name in cls.__pydantic_fields__]
        if owners and chosen not in owners:
            types = " and ".join(f"'{owner}'" for cls in owners for owner in types_of(cls))
            own = entries.get("type", types_of(chosen)[0])
            raise source.error(f"{section}.{name}", f"{section}.{name} is an entry of type {types}, not of '{own}'")
    return read_fields(chosen, entries, source, section)


def check_names(
    entries: Iterable[Any],
    known: Iterable[str],
    source: Source,
    section: str = "",
    elsewhere: Mapping[str, str] | None = None,
) -> None:
    """Raise ConfigError for the first entry that is not `known`, with the nearest name that is.

    Args:
        elsewhere: names that are known elsewhere -> where.
    """
    known = set(known)
    for name in entries:
        if name not in known:
            key, where = (f"{section}.{name}", f" in '{section}'") if section else (str(name), "")
            place = (elsewhere or {}).get(name)
            hint = f"did you mean '{place}'?" if place else suggest(name, known)
            raise source.error(key, f"unknown key {str(name)!r}{where}; {hint}")


def read_value(value: Any, hint: Any, key: str, source: Source) -> Any:
    """Return `value` converted to the type `hint` (an int may stand for a float, a list for a tuple).

    Raises:
        ConfigError: the value has another type, or is not one of the choices.
    """
    try:
        return _adapter(hint).validate_python(_as_tuple(value))
    except ValidationError as error:
        raise source.error(key, _sentence(error.errors(include_url=False)[0], hint, value, key)) from None


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=STRICT)  # slow to build, and lines of a prompt file ask for the same few


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _sentence(problem: Mapping[str, Any], hint: Any, value: Any, key: str) -> str:
    """Say what pydantic's `problem` with a `value` means for a user; `hint` is the type it should have."""
    for bound, words in (("ge", "at least"), ("le", "at most")):
        if bound in problem.get("ctx", {}):
            return f"{key} must be {words} {problem['ctx'][bound]:.10g}, got {shortened(value)}"
    choices = [choice for option in _options(hint) if get_origin(option) is Literal for choice in get_args(option)]
    nearest = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"{key} must be {_described(hint)}, got {shortened(repr(value))}{nearest and '; '}{nearest}"


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _described(hint: Any) -> str:
    """Name a type for an error message: `int | None` becomes "a whole number or None"."""
    return " or ".join(map(_described_option, _options(hint)))


def _described_option(option: Any) -> str:
    arguments = get_args(option)
    if get_origin(option) is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(repr, arguments))
    if get_origin(option) is tuple:
        many = "a list" if arguments[-1] is Ellipsis else f"{len(arguments)} values"
        return f"{many} ({_NOUNS[arguments[0]]} each)"
    return "None" if option is type(None) else _NOUNS[option]
