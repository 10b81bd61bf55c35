"""The prompts of one run, numbered: from the config's list or file, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opensora.config.schema import SampleConfig
from opensora.utils.errors import ConfigError
from opensora.utils.files import find_path
from opensora.utils.prompts import extract_json_from_prompts, load_prompts, split_prompt


@dataclass(frozen=True)
class NumberedPrompt:
    """A prompt, its place in the list or file, and the seed of its noise.

    The place decides its file name, and its usual seed: neither depends on the other prompts of the run.
    """

    index: int
    text: str
    seed: int


def read_prompts(config: SampleConfig) -> list[NumberedPrompt]:
    """The prompts from ``start_index`` up to, not including, ``end_index``.

    A prompt's index is its line among the non-blank ones of the file; a list counts from ``start_index``.

    Raises:
        ConfigError: no prompt, a blank one, or one with a feature that is not available.
    """
    if config.prompt is not None:
        # Upstream slices files only; for a list, start_index is the number of the first sample.
        prompts = list(enumerate((text.strip() for text in config.prompt), start=config.start_index))
        if not prompts:
            raise ConfigError('the prompt list is empty; give at least one, such as --prompt "a red circle"')
    elif config.prompt_path is not None:
        prompts = _read_file(config)
    else:
        raise ConfigError("no prompts; give --prompt TEXT ... or --prompt-path FILE")
    return [NumberedPrompt(index, _checked(index, text), config.seed + index) for index, text in prompts]


def _read_file(config: SampleConfig) -> list[tuple[int, str]]:
    """Numbers and texts of the chosen prompts."""
    path = find_path(config.prompt_path) or Path(config.prompt_path)
    try:
        texts = load_prompts(path)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    chosen = list(enumerate(texts))[config.start_index : config.end_index]
    if not chosen:
        raise ConfigError(
            f"prompt file '{path}' holds {len(texts)} prompts, none from start_index {config.start_index} on"
        )
    return chosen


def _checked(index: int, prompt: str) -> str:
    """The prompt without empty settings and segment markers, which ask for nothing."""
    try:
        [text], references, strategies = extract_json_from_prompts([prompt], [""], [""])
        segments, _ = split_prompt(text)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if any(references + strategies):
        raise ConfigError(f"prompt {index}: conditioning on a reference is not available; remove the {{...}}")
    if len(segments) > 1:
        raise ConfigError(f"prompt {index}: extending over several loops is not available; keep one |i| segment")
    text = segments[0].strip()
    if not text:
        raise ConfigError(f"prompt {index} is empty; describe what the video should show")
    return text
