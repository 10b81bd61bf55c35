"""From untyped config entries to a dataclass: unknown names, wrong types and small numbers end here."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from opensora.config.sections import SECTIONS, section_class, types_of
from opensora.errors import ConfigError, shortened, suggest

_NOUNS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


@dataclass(frozen=True)
class Source:
    """Where the entries of a configuration come from, so that an error can say it."""

    path: str
    from_command_line: frozenset[str] = frozenset()  # dotted keys
    by_hand: str = "command line"  # what a value that is not from the file comes from

    def error(self, keys: str | tuple[str, ...], message: str) -> ConfigError:
        """A ConfigError that starts with the place where the blamed key (or one of several) was set."""
        keys = (keys,) if isinstance(keys, str) else keys
        set_by_hand = any(f"{name}.".startswith(f"{key}.") for name in self.from_command_line for key in keys)
        return ConfigError(f"{self.by_hand if set_by_hand else self.path}: {message}")


def read_fields(cls: type, entries: Mapping[str, Any], source: Source, section: str = "", **given: Any) -> Any:
    """Build the dataclass ``cls`` from config ``entries``.

    Args:
        section: the config's name for these entries ("model"), empty at the top level.
        given: fields that are already built and are not read from ``entries``.

    Raises:
        ConfigError: an unknown or missing key, a value of the wrong type, or a number below its minimum.
    """
    fields = {field.name: field for field in dataclasses.fields(cls) if field.name not in given}
    check_names(entries, fields, source, section)
    hints = get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        key = f"{section}.{name}" if section else name
        if name in entries:
            limits = field.metadata.get("minimum"), field.metadata.get("maximum")
            values[name] = read_value(entries[name], hints[name], key, source, *limits)
        elif field.default is dataclasses.MISSING:
            raise source.error(key, f"'{key}' is missing; it must be {describe(hints[name])}")
    return cls(**values, **given)


def read_section(section: str, entries: Mapping[str, Any], source: Source) -> Any:
    """Build the dataclass that the ``type`` of a section asks for; without one, that of the default type.

    Raises:
        ConfigError: as ``read_fields``, an unknown type, or an entry of another type.
    """
    classes = SECTIONS[section]
    if "type" in entries:
        known = tuple(name for cls in classes for name in types_of(cls))
        read_value(entries["type"], Literal[known], f"{section}.type", source)
    chosen = section_class(section, entries)
    others = [cls for cls in classes if cls is not chosen]
    for name in entries:
        owners = [cls for cls in others if name in cls.__dataclass_fields__]
        if name not in chosen.__dataclass_fields__ and owners:
            types = " and ".join(f"'{owner}'" for cls in owners for owner in types_of(cls))
            own = entries.get("type", types_of(chosen)[0])
            raise source.error(f"{section}.{name}", f"{section}.{name} is an entry of type {types}, not of '{own}'")
    return read_fields(chosen, entries, source, section)


def check_names(entries: Mapping[str, Any], known: Iterable[str], source: Source, section: str = "") -> None:
    """Raise ConfigError for the first entry that is not ``known``, with the nearest name that is."""
    known = set(known)
    for name in entries:
        if name not in known:
            key = f"{section}.{name}" if section else str(name)
            where = f" in '{section}'" if section else ""
            raise source.error(key, f"unknown key {str(name)!r}{where}; {suggest(name, known)}")


def read_value(
    value: Any, hint: Any, key: str, source: Source, minimum: float | None = None, maximum: float | None = None
) -> Any:
    """``value`` as ``hint`` wants it (an int may stand for a float, a list for a tuple).

    Raises:
        ConfigError: another type, an unlisted choice, or a number below ``minimum`` or above ``maximum``.
    """
    for option in _options(hint):
        matches, converted = _convert(value, option)
        if not matches:
            continue
        if minimum is not None and converted is not None and converted < minimum:
            raise source.error(key, f"{key} must be at least {minimum}, got {shortened(value)}")
        if maximum is not None and converted is not None and converted > maximum:
            raise source.error(key, f"{key} must be at most {maximum}, got {shortened(value)}")
        return converted
    choices = [choice for option in _options(hint) if get_origin(option) is Literal for choice in get_args(option)]
    hint_text = f"; {suggest(value, choices)}" if isinstance(value, str) and choices else ""
    raise source.error(key, f"{key} must be {describe(hint)}, got {shortened(repr(value))}{hint_text}")


def describe(hint: Any) -> str:
    """What a value of this type is called in an error: ``int | None`` reads "a whole number or None"."""
    return " or ".join(_describe_option(option) for option in _options(hint))


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _describe_option(option: Any) -> str:
    if option is type(None):
        return "None"
    if get_origin(option) is Literal:
        choices = get_args(option)
        return ("one of " if len(choices) > 1 else "") + ", ".join(repr(choice) for choice in choices)
    if get_origin(option) is tuple:
        arguments = get_args(option)
        if arguments[-1] is Ellipsis:
            return f"a list ({_NOUNS[arguments[0]]} each)"
        return f"{len(arguments)} values ({_NOUNS[arguments[0]]} each)"
    return _NOUNS[option]


def _convert(value: Any, option: Any) -> tuple[bool, Any]:
    """Whether ``value`` is an ``option``, and the value to keep."""
    if option is type(None):
        return value is None, value
    if get_origin(option) is Literal:
        return isinstance(value, str) and value in get_args(option), value
    if get_origin(option) is tuple:
        return _convert_items(value, get_args(option))
    if option is bool or isinstance(value, bool):
        return option is bool and isinstance(value, bool), value
    if option is float:
        try:
            usable = isinstance(value, int | float) and math.isfinite(value)
        except OverflowError:  # an int beyond all floats
            usable = False
        return usable, float(value) if usable else value
    return isinstance(value, option), value


def _convert_items(value: Any, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, list | tuple):
        return False, value
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        return False, value
    items = [_convert(item, option) for item, option in zip(value, arguments, strict=True)]
    return all(matches for matches, _ in items), tuple(item for _, item in items)
