"""One prompt as a JSON object: {"prompt": "a red circle", "seed": 7}, with what it overrides of the run's config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opensora.errors import ConfigError, suggest
from opensora.files import is_utf8
from opensora.prompts.file_names import safe_stem

PROMPT_KEY = "prompt"

# What a prompt can set for itself; other entries of a config hold for the whole run.
LINE_KEYS = frozenset(
    {
        "name",  # of its files, without the ending
        "seed",
        "num_sampling_steps",
        "cfg_scale",
        "solver",
        "speedup",
        "max_steps_computed",
        "min_psnr",
        "aes",
        "flow",
        "camera_motion",
        "num_frames",
        "resolution",
        "aspect_ratio",
        "image_size",
        "fps",
        "save_fps",
        "loop",
        "condition_frame_length",
        "condition_frame_edit",
        "reference_path",
        "mask_strategy",
    }
)
ALIASES = {"steps": "num_sampling_steps"}


def read_entry(entry: Any, fail: Callable[[str], ConfigError]) -> tuple[str, dict[str, Any]]:
    """The prompt and the overrides of a JSON object, or of a text, which is a prompt without any.

    ``steps`` becomes ``num_sampling_steps``, and a list of references one text with ";" in between. Values are kept
    as they are otherwise: the config that they override knows their types.

    Args:
        fail: the error that names the place of the entry, from what is wrong with it.

    Raises:
        ConfigError: an unknown key, no prompt, or a name, reference or mask strategy that cannot be one.
    """
    if isinstance(entry, str):
        return _checked_prompt(entry, fail), {}
    if not isinstance(entry, dict):
        raise fail(f'a prompt is an object such as {{"prompt": "a red circle"}}, got {_short(entry)}')
    if PROMPT_KEY not in entry:
        raise fail(f"the object has no '{PROMPT_KEY}'")
    known = LINE_KEYS | set(ALIASES) | {PROMPT_KEY}
    overrides: dict[str, Any] = {}
    for written, value in entry.items():
        if written not in known:
            raise fail(f"unknown key {written!r}; {suggest(written, known)}")
        key = ALIASES.get(written, written)
        if key in overrides:
            raise fail(f"{written!r} and {key!r} are the same; give one of them")
        if key != PROMPT_KEY:
            overrides[key] = _READERS[key](key, value, fail) if key in _READERS else value
    return _checked_prompt(entry[PROMPT_KEY], fail), overrides


def _checked_prompt(prompt: Any, fail: Callable[[str], ConfigError]) -> str:
    """The prompt on one line, stripped."""
    prompt = " ".join(_text(PROMPT_KEY, prompt, fail).splitlines()).strip()
    if not prompt:
        raise fail("the prompt is empty; describe what the video should show")
    return prompt


def _text(key: str, value: Any, fail: Callable[[str], ConfigError]) -> str:
    if not isinstance(value, str):
        raise fail(f"'{key}' must be text, got {_short(value)}")
    if "\0" in value or not is_utf8(value):
        raise fail(f"'{key}' has a character that is not text (NUL, or half of a surrogate pair)")
    return value


def _name(key: str, value: Any, fail: Callable[[str], ConfigError]) -> str:
    text = _text(key, value, fail)
    if safe_stem(text) != text:
        raise fail(f"name {text!r} cannot be a file name everywhere; {safe_stem(text)!r} can")
    return text


def _references(key: str, value: Any, fail: Callable[[str], ConfigError]) -> str:
    """Paths with ";" in between."""
    if value is None or isinstance(value, str):
        return _optional_text(key, value, fail)
    if not isinstance(value, list):
        raise fail(f"'{key}' must be a path or a list of paths, got {_short(value)}")
    paths = [_text(key, path, fail) for path in value]
    for path in paths:
        if ";" in path or not path.strip():
            raise fail(f"'{key}' has an entry {path!r}; each must be one path, without ';', which separates them")
    return ";".join(paths)


def _optional_text(key: str, value: Any, fail: Callable[[str], ConfigError]) -> str:
    return "" if value is None else _text(key, value, fail)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_READERS: dict[str, Callable[[str, Any, Callable[[str], ConfigError]], str]] = {
    "name": _name,
    "reference_path": _references,
    "mask_strategy": _optional_text,
}
