"""Prompt files: one prompt per line, or a table or JSON where a prompt sets more than its text.

    # prompts.txt: blank lines and comments are skipped; a prompt that begins with "#" is written "\\#"
    a red circle moving fast to the right
    |0| a sunny day |2| a rainy day {"reference_path": "day.png", "mask_strategy": "0"}

    # prompts.csv: the first line names the columns, of LINE_KEYS; an empty cell sets nothing
    prompt,seed,steps
    "a red circle, moving fast to the right",7,50

    # prompts.jsonl: one object per line; prompts.json: a list of them
    {"prompt": "a red circle moving fast to the right", "seed": 7, "steps": 50, "name": "circle"}

The object at the end of a plain-text prompt stays part of it; `opensora.prompts.syntax` reads it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opensora.errors import ConfigError, shortened, suggest
from opensora.files import is_utf8
from opensora.prompts.strict_json import decode
from opensora.prompts.syntax import safe_stem

MAX_PROMPT = 100_000  # characters; T5 reads some 1,500
MAX_FILE = 100_000_000  # bytes
STANDARD_INPUT = "-"
_BOM = "\ufeff"
_PLAIN, _LINES = ("", ".txt", ".text"), (".jsonl", ".ndjson")

PROMPT_KEY = "prompt"

# What a prompt can set for itself; other entries of a config hold for the whole run. In a table the first ones are
# text, the others numbers or lists as in JSON. The name is that of its files, without the ending.
_TEXT_KEYS = frozenset(
    {
        *("name", "reference_path", "mask_strategy", "solver", "camera_motion"),
        *("num_frames", "resolution", "aspect_ratio"),
    }
)
LINE_KEYS = _TEXT_KEYS | {
    *("seed", "num_sampling_steps", "cfg_scale", "speedup", "max_steps_computed", "min_psnr", "aes", "flow"),
    *("image_size", "fps", "save_fps", "loop", "condition_frame_length", "condition_frame_edit"),
}
ALIASES = {"steps": "num_sampling_steps"}

# The line where an entry starts, where there are lines, and the entry: a text, or an object as of JSON.
_Found = tuple[int | None, Any]


@dataclass(frozen=True)
class Prompt:
    """A prompt, from its line of a file or its place in a list to the seed of its noise.

    Its index decides the names of its files and its usual seed: neither depends on the other prompts of the run.

    Attributes:
        index: its place among the prompts of the file, from 0; a list counts from the config's `start_index`.
        line: where it starts in the file, from 1; None for a prompt of a list, be it of the config or a JSON file.
        text: without settings once the prompt is checked; each of several segments follows |i|, the loop it starts at.
        overrides: what it sets for itself, by config key; types are not checked yet, relative reference paths are kept.
        seed: of its noise; None until the prompt is checked.
        problem: why the prompt cannot be sampled, in one sentence.
    """

    index: int
    line: int | None
    text: str
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    seed: int | None = None
    problem: str | None = None


def read_prompt_file(path: str | os.PathLike[str], text: str | None = None) -> list[Prompt]:
    """Read the prompts of a file, in its order; its ending gives the format, and a pipe holds plain text or JSON.

    Args:
        text: the file's text, if `read_prompt_text` has read it already.

    Raises:
        ConfigError: the file cannot be read or holds no prompt, or one of its prompts cannot be used; the message
            names the file, and the line where there is one.
    """
    path = Path(path)
    suffix = "" if is_stream(path) else path.suffix.lower()
    readers = {".csv": _read_table, ".json": _read_list, **dict.fromkeys(_LINES, _read_objects)}
    if suffix not in (*readers, *_PLAIN):
        raise ConfigError(
            f"prompt file '{path}' has the ending {suffix}, which is not one of .txt (one prompt per line), .csv, "
            ".jsonl and .json; save it as one of these"
        )
    text = read_prompt_text(path) if text is None else text
    if is_stream(path):
        suffix = _suffix_of(text)
    reader = readers.get(suffix, _read_plain)
    prompts: list[Prompt] = []
    names: dict[str, str] = {}  # where the name is given first; some systems do not tell case apart
    for index, (line, entry) in enumerate(reader(text, path)):
        place = f"prompt {index}" if line is None else f"line {line}"
        try:
            prompt, overrides = (entry, {}) if reader is _read_plain else _read_entry(entry)
            if len(prompt) > MAX_PROMPT:
                raise ConfigError(f"{len(prompt):,} characters are too long for a prompt (at most {MAX_PROMPT:,})")
            if (name := overrides.get("name")) is not None:
                first = names.setdefault(name.casefold(), place)
                if first != place:
                    raise ConfigError(f"name '{name}' is also that of {first}; each needs its own")
        except ConfigError as error:
            raise ConfigError(f"prompt file '{path}', {place}: {error}") from error
        prompts.append(Prompt(index, line, prompt, overrides))
    if not prompts:
        raise ConfigError(f"prompt file '{path}' holds no prompt; write one per line")
    return prompts


def _suffix_of(text: str) -> str:
    """Return the ending of the file that a pipe's text would be in."""
    start = next((line[:1] for _, line in _lines(text)), "")
    if start == "[":  # a prompt may begin like that, too
        with suppress(ValueError):
            return ".json" if isinstance(decode(text), list) else ""
    return ".jsonl" if start == "{" else ""  # no prompt begins with a brace


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether a path can be read only once: `-`, which is standard input, `/dev/stdin` or a pipe of the shell."""
    try:
        path = Path(path)
        return str(path) == STANDARD_INPUT or path.is_fifo() or path.is_char_device()
    except (OSError, ValueError):  # a name that is too long, or has a NUL
        return False


def read_prompt_text(path: str | os.PathLike[str]) -> str:
    """Read the text of a UTF-8 file, without a byte order mark and with lines that end in a newline only.

    Raises:
        ConfigError: the file cannot be read, is not text, or is too large.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ConfigError(f"prompt file '{path}' is a folder; give a text file with one prompt per line")
        if not path.is_file() and not is_stream(path):
            raise ConfigError(f"there is no prompt file '{path}'; give a text file with one prompt per line")
        if str(path) == STANDARD_INPUT:
            data = sys.stdin.buffer.read(MAX_FILE + 1)
        else:
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


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the stripped text of each line that is neither blank nor a comment."""
    # Not splitlines, which would cut a prompt at U+2028 and other characters that editors show within a line.
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield number, stripped


def _read_plain(text: str, path: Path) -> Iterator[_Found]:
    for number, line in _lines(text):
        if line.startswith("{"):
            raise _error(path, number, "no prompt before the '{'; objects go into a file named .jsonl")
        yield number, line.removeprefix("\\") if line.startswith("\\#") else line


def _read_table(text: str, path: Path) -> Iterator[_Found]:
    """Read rows below a first one that names the columns."""
    rows = _rows(text, path)
    number, columns = next(rows, (1, []))
    columns = [column.strip() for column in columns]
    if "prompt" not in columns:
        raise _error(
            path, number, f"the first line names no column 'prompt' but {', '.join(map(repr, columns)) or 'nothing'}; "
            "columns are named there, with commas in between, such as prompt,seed"
        )  # fmt: skip
    names = [column for column in columns if column]  # spreadsheets add empty ones
    if len(set(names)) < len(names):
        raise _error(path, number, "a column is named twice")
    for number, cells in rows:
        if len(cells) > len(columns):
            raise _error(
                path, number, f"{len(cells)} cells are more than the {len(columns)} columns; put a prompt that has a "
                'comma into quotes ("")'
            )  # fmt: skip
        entry = {name: _cell(name, cell) for name, cell in zip(columns, cells, strict=False) if cell.strip()}
        yield number, {"prompt": "", **entry}


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the cells of each row that is not blank."""
    reader = csv.reader(io.StringIO(text), strict=True)
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise _error(path, start, f"not a row of a .csv file ({error})") from error


def _cell(column: str, text: str) -> Any:
    if column == PROMPT_KEY or column in _TEXT_KEYS:
        return text.strip()
    try:
        return decode(text)
    except ValueError:
        return text.strip()  # the config refuses it by name if it wants a number


def _read_objects(text: str, path: Path) -> Iterator[_Found]:
    for number, line in _lines(text):
        try:
            yield number, decode(line)
        except json.JSONDecodeError as error:
            raise _error(path, number, f"invalid JSON ({error.msg}, column {error.colno})") from error
        except ValueError as error:
            raise _error(path, number, str(error)) from error


def _read_list(text: str, path: Path) -> Iterator[_Found]:
    try:
        entries = decode(text)
    except json.JSONDecodeError as error:
        raise _error(path, error.lineno, f"invalid JSON ({error.msg}, column {error.colno})") from error
    except ValueError as error:
        raise ConfigError(f"prompt file '{path}': {error}") from error
    if not isinstance(entries, list):
        raise ConfigError(f"prompt file '{path}': a .json file of prompts must be a list, [...]")
    yield from ((None, entry) for entry in entries)


def _error(path: Path, line: int, problem: str) -> ConfigError:
    return ConfigError(f"prompt file '{path}', line {line}: {problem}")


def _read_entry(entry: Any) -> tuple[str, dict[str, Any]]:
    """Return the prompt and the overrides of an object, or of a text, which is a prompt without any.

    `steps` becomes `num_sampling_steps`, and a list of references becomes one text with ";" in between. Other values
    are kept as they are: the config that they override knows their types.

    Raises:
        ConfigError: a key is unknown, there is no prompt, or a name, reference or mask strategy cannot be used.
    """
    if isinstance(entry, str):
        return _checked_prompt(entry), {}
    if not isinstance(entry, dict):
        raise ConfigError(
            f'a prompt is an object such as {{"prompt": "a red circle"}}, got {shortened(repr(entry), 80)}'
        )
    if PROMPT_KEY not in entry:
        raise ConfigError(f"the object has no '{PROMPT_KEY}'")
    known = LINE_KEYS | set(ALIASES) | {PROMPT_KEY}
    overrides: dict[str, Any] = {}
    names: dict[str, str] = {}  # as they are written
    for written, value in entry.items():
        if written not in known:
            raise ConfigError(f"unknown key {written!r}; {suggest(written, known)}")
        key = ALIASES.get(written, written)
        if (first := names.setdefault(key, written)) != written:
            raise ConfigError(f"{first!r} and {written!r} are the same; give one of them")
        if key != PROMPT_KEY:
            overrides[key] = _READERS[key](key, value) if key in _READERS else value
    return _checked_prompt(entry[PROMPT_KEY]), overrides


def _checked_prompt(prompt: Any) -> str:
    """Return the prompt on one line, stripped."""
    prompt = " ".join(_text(PROMPT_KEY, prompt).splitlines()).strip()
    if not prompt:
        raise ConfigError("the prompt is empty; describe what the video should show")
    return prompt


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"'{key}' must be text, got {shortened(repr(value), 80)}")
    if "\0" in value or not is_utf8(value):
        raise ConfigError(f"'{key}' has a character that is not text (NUL, or half of a surrogate pair)")
    return value


def _name(key: str, value: Any) -> str:
    text = _text(key, value)
    if safe_stem(text) != text:
        raise ConfigError(f"name {text!r} cannot be a file name everywhere; {safe_stem(text)!r} can")
    return text


def _references(key: str, value: Any) -> str:
    """Join paths with ";" in between."""
    if value is None or isinstance(value, str):
        return _optional_text(key, value)
    if not isinstance(value, list):
        raise ConfigError(f"'{key}' must be a path or a list of paths, got {shortened(repr(value), 80)}")
    paths = [_text(key, path) for path in value]
    for path in paths:
        if ";" in path or not path.strip():
            raise ConfigError(
                f"'{key}' has an entry {path!r}; each must be one path, without ';', which separates them"
            )
    return ";".join(paths)


def _optional_text(key: str, value: Any) -> str:
    return "" if value is None else _text(key, value)


_READERS: dict[str, Callable[[str, Any], str | None]] = {
    "name": _name,
    "reference_path": _references,
    "mask_strategy": _optional_text,
    "camera_motion": lambda key, value: None if value is None else _text(key, value),
}
