"""Files of prompts: plain text, one prompt per line, or JSON where a prompt sets more than its text.

    # prompts.txt: blank lines and comments are skipped; a prompt that begins with "#" is written "\\#"
    a red circle moving fast to the right
    |0| a sunny day |2| a rainy day {"reference_path": "day.png", "mask_strategy": "0"}

    # prompts.jsonl: one object per line; prompts.json: a list of them; LINE_KEYS are what they can set
    {"prompt": "a red circle moving fast to the right", "seed": 7, "steps": 50, "name": "circle"}

The object at the end of a prompt of plain text stays part of it, see ``opensora.prompts.syntax``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opensora.errors import ConfigError
from opensora.prompts.entries import LINE_KEYS, read_entry
from opensora.prompts.strict_json import decode, decode_all, skip_blanks

__all__ = ["LINE_KEYS", "PromptLine", "read_prompt_file"]

MAX_LINE = 100_000  # characters; T5 reads some 1,500
MAX_FILE = 100_000_000  # bytes
_BOM = "\ufeff"


@dataclass(frozen=True)
class PromptLine:
    """A prompt of a file.

    Attributes:
        number: its place among the prompts of the file, from 0.
        line: where it starts in the file, from 1.
        overrides: what it sets for itself, by config key; types are not checked yet, relative reference paths are kept.
    """

    number: int
    line: int
    text: str
    overrides: dict[str, Any] = field(default_factory=dict)


def read_prompt_file(path: str | os.PathLike[str]) -> list[PromptLine]:
    """The prompts of a file, in its order: ``.jsonl`` and ``.json`` are JSON, all others plain text.

    Raises:
        ConfigError: the file cannot be read or holds no prompt, or one of its prompts cannot be used; the message
            names the file, and the line where there is one.
    """
    path = Path(path)
    text = _read_text(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        found = _read_list(text, path)
    elif suffix in (".jsonl", ".ndjson"):
        found = _read_objects(text, path)
    else:
        found = ((number, *_plain(line, number, path)) for number, line in _lines(text, path))
    prompts = [PromptLine(i, line, prompt, overrides) for i, (line, prompt, overrides) in enumerate(found)]
    if not prompts:
        raise ConfigError(f"prompt file '{path}' holds no prompt; write one per line")
    _check_names(prompts, path)
    return prompts


def _read_text(path: Path) -> str:
    """The text of a UTF-8 file without a byte order mark, lines ended by a newline only."""
    try:
        if path.is_dir():
            raise ConfigError(f"prompt file '{path}' is a folder; give a text file with one prompt per line")
        if not path.is_file():
            raise ConfigError(f"there is no prompt file '{path}'; give a text file with one prompt per line")
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ConfigError(f"prompt file '{path}' cannot be read ({reason})") from error
    if b"\0" in data:
        raise ConfigError(f"prompt file '{path}' is not UTF-8 text (it has NUL bytes); save it as UTF-8")
    if len(data) > MAX_FILE:
        raise ConfigError(f"prompt file '{path}' is larger than {MAX_FILE // 1_000_000} MB; split it")
    try:
        text = data.decode().removeprefix(_BOM)
    except UnicodeDecodeError as error:
        where = f"line {data.count(10, 0, error.start) + 1}"
        raise ConfigError(
            f"prompt file '{path}', {where}: not UTF-8 text ({error.reason}); save it as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(text: str, path: Path) -> Iterator[tuple[int, str]]:
    """Number from 1 and text of the lines that are neither blank nor comments, stripped."""
    # Not splitlines, which would cut a prompt at U+2028 and other characters that editors show within a line.
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield number, _of_usable_length(stripped, number, path)


def _plain(line: str, number: int, path: Path) -> tuple[str, dict[str, Any]]:
    if line.startswith("{"):
        raise _error(path, number, "no prompt before the '{'; objects go into a file named .jsonl")
    return line.removeprefix("\\") if line.startswith("\\#") else line, {}


def _read_objects(text: str, path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for number, line in _lines(text, path):
        try:
            entry = decode_all(line)
        except json.JSONDecodeError as error:
            raise _error(path, number, f"invalid JSON ({error.msg}, column {error.colno})") from error
        except ValueError as error:
            raise _error(path, number, str(error)) from error
        yield number, *_read_entry(entry, number, path)


def _read_list(text: str, path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Entries of a JSON list; read one by one, so that every error has its line."""
    line, counted = 1, 0

    def line_at(position: int) -> int:
        nonlocal line, counted
        line, counted = line + text.count("\n", counted, position), position
        return line

    position = skip_blanks(text, 0)
    if text[position : position + 1] != "[":
        raise _error(path, line_at(position), "a .json file of prompts must be a list, [...]")
    position = skip_blanks(text, position + 1)
    is_first = True
    while text[position : position + 1] != "]":
        if not is_first:
            if text[position : position + 1] != ",":
                raise _error(path, line_at(position), "invalid JSON (expected ',' or ']' after an entry)")
            position = skip_blanks(text, position + 1)
        start = position
        try:
            entry, position = decode(text, start)
        except json.JSONDecodeError as error:
            raise _error(path, line_at(error.pos), f"invalid JSON ({error.msg}, column {error.colno})") from error
        except ValueError as error:
            raise _error(path, line_at(start), str(error)) from error
        number = line_at(start)
        _of_usable_length(text[start:position], number, path)
        yield number, *_read_entry(entry, number, path)
        position, is_first = skip_blanks(text, position), False
    end = skip_blanks(text, position + 1)
    if end != len(text):
        raise _error(path, line_at(end), "invalid JSON (something follows the list)")


def _read_entry(entry: Any, number: int, path: Path) -> tuple[str, dict[str, Any]]:
    return read_entry(entry, lambda problem: _error(path, number, problem))


def _of_usable_length(line: str, number: int, path: Path) -> str:
    if len(line) > MAX_LINE:
        raise _error(path, number, f"{len(line):,} characters are too long for a prompt (at most {MAX_LINE:,})")
    return line


def _check_names(prompts: Iterable[PromptLine], path: Path) -> None:
    """Names that differ in case only are one file on some systems."""
    seen: dict[str, PromptLine] = {}
    for prompt in prompts:
        if "name" not in prompt.overrides:
            continue
        name = prompt.overrides["name"]
        first = seen.setdefault(name.casefold(), prompt)
        if first is not prompt:
            raise _error(path, prompt.line, f"name '{name}' is that of line {first.line}, too; each needs its own")


def _error(path: Path, line: int, problem: str) -> ConfigError:
    return ConfigError(f"prompt file '{path}', line {line}: {problem}")
