"""The prompts of one run, numbered: from the config's list or file, checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError, shortened
from opensora.files import find_path, is_utf8, printable
from opensora.models.text_encoder.caption_cleaning import text_preprocessing
from opensora.prompts.files import STANDARD_INPUT, Prompt, is_stream, read_prompt_file, read_prompt_text
from opensora.prompts.syntax import merge_prompt, split_prompt, split_settings

MAX_SEED = 2**32 - 1  # PyTorch's generator takes no more bits on the CPU: larger seeds would repeat others' noise


def read_prompts(config: SampleConfig) -> list[Prompt]:
    """Return the prompts from `start_index` up to, not including, `end_index`.

    Raises:
        ConfigError: as `all_prompts` and `chosen_prompts`.
    """
    return chosen_prompts(config, all_prompts(config))


def all_prompts(config: SampleConfig, text: str | None = None) -> list[Prompt]:
    """Return every prompt of the list or file; one that cannot be used has a `problem`.

    A prompt's index is its place among the prompts of the file; a list counts from `start_index`, as upstream slices
    files only.

    Args:
        text: text that was read from a file that can be read only once.

    Raises:
        ConfigError: there is no prompt, or the file cannot be read.
    """
    if config.prompt is not None:
        prompts = [Prompt(i, None, prompt.strip()) for i, prompt in enumerate(config.prompt, config.start_index)]
        if not prompts:
            raise ConfigError('the prompt list is empty; give at least one, such as --prompt "a red circle"')
    elif config.prompt_path is not None:
        prompts = read_prompt_file(_file(config.prompt_path), text)
    else:
        raise ConfigError("no prompts; give --prompt TEXT ... or --prompt-path FILE")
    return [_checked(prompt, config) for prompt in prompts]


def chosen_prompts(config: SampleConfig, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return a run's prompts: all of a list; those of a file from `start_index` up to, not including, `end_index`.

    Raises:
        ConfigError: there are none.
    """
    if config.prompt is not None:
        return list(prompts)
    end = math.inf if config.end_index is None else config.end_index
    chosen = [prompt for prompt in prompts if config.start_index <= prompt.index < end]
    if not chosen:
        raise ConfigError(
            f"prompt file '{config.prompt_path}' holds {len(prompts)} prompts, none from start_index "
            f"{config.start_index} on"
        )
    return chosen


def stream_text(prompt_path: str | None) -> str | None:
    """Return what standard input or a pipe holds, which can be read only once; None for a file.

    Raises:
        ConfigError: it is not text.
    """
    return read_prompt_text(prompt_path) if prompt_path is not None and is_stream(_file(prompt_path)) else None


def plain_texts(config: SampleConfig) -> list[str]:
    """Return the texts of `read_prompts`, for a command that samples clips from nothing but text.

    Raises:
        ConfigError: as `read_prompts`; or a prompt cannot be used, has settings, or has several loops.
    """
    prompts = read_prompts(config)
    for prompt in prompts:
        if prompt.problem:
            raise ConfigError(prompt.problem)
    for prompt in prompts:
        if prompt.overrides or config.loop > 1 or split_prompt(prompt.text)[1] is not None:
            raise ConfigError(
                f"prompt {prompt.index}: settings of single prompts, references and loops are for sampling only; "
                "give plain texts"
            )
    return [prompt.text for prompt in prompts]


def _file(prompt_path: str) -> Path:
    return Path(prompt_path) if prompt_path == STANDARD_INPUT else find_path(prompt_path) or Path(prompt_path)


def _checked(prompt: Prompt, config: SampleConfig) -> Prompt:
    """Return the prompt with its JSON moved into the overrides and with its seed, or with its problem."""
    try:
        text, overrides = _split(prompt.index, prompt.text, prompt.overrides, config)
        seed = _seed(prompt.index, overrides.pop("seed", None), config)
    except ValueError as error:
        return replace(prompt, overrides={}, seed=config.seed + prompt.index, problem=str(error))
    return replace(prompt, text=text, overrides=overrides, seed=seed)


def _split(index: int, prompt: str, given: Mapping[str, Any], config: SampleConfig) -> tuple[str, dict[str, Any]]:
    """Return a prompt's text without its JSON and without the marker of a single segment, and its overrides.

    Raises:
        ValueError: says what is wrong with the prompt.
    """
    if not is_utf8(prompt) or "\0" in prompt:
        raise ConfigError(f"prompt {index} has a character that is not text: '{shortened(printable(prompt))}'")
    text, settings = split_settings(prompt)
    segments, starts = split_prompt(text)
    segments = [segment.strip() for segment in segments]
    if not all(segments):
        where = "" if len(segments) == 1 else f" in segment |{starts[segments.index('')]}|"
        raise ConfigError(f"prompt {index} is empty{where}; describe what the video should show")
    unread = None if config.llm_refine else next((text for text in segments if not text_preprocessing(text)), None)
    if unread is not None:  # a language model may still translate it
        raise ConfigError(f"prompt {index}: the model reads English, and cannot read any of '{shortened(unread, 80)}'")
    overrides = {name: value for name, value in given.items() if value is not None}
    overrides |= settings
    loops = overrides.get("loop", config.loop)
    if len(segments) > 1 and isinstance(loops, int) and starts[-1] >= loops:
        raise ConfigError(
            f"prompt {index}: its segment |{starts[-1]}| is for loop {starts[-1]}, but loops are counted from 0 and "
            f"there {'is' if loops == 1 else 'are'} {loops}; set --loop {starts[-1] + 1}"
        )
    return segments[0] if len(segments) == 1 else merge_prompt(segments, starts), overrides


def _seed(index: int, own: Any, config: SampleConfig) -> int:
    if own is None:
        return config.seed + index
    if not isinstance(own, int) or isinstance(own, bool) or own < 0:
        raise ConfigError(f"prompt {index}: seed must be a whole number of at least 0, got {own!r}")
    if own > MAX_SEED:
        raise ConfigError(f"prompt {index}: seed {shortened(own)} is too large; the largest one is {MAX_SEED}")
    return own
