"""Prompt syntax: from a line in a prompt file to the text and settings of each generated clip.

    |0| a sunny day |2| a rainy day {"reference_path": "day.png", "mask_strategy": "0"}

`|i|` starts the text used from loop i on; the JSON object at the end sets the reference and the mask strategy
of this prompt. No function here changes its arguments.

Source: opensora/utils/inference_utils.py (Open-Sora v1.2).
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

# One temporal window of the autoencoder: 17 frames become 5 latent frames.
WINDOW_FRAMES = 17
WINDOW_LATENTS = 5

_SEGMENT_MARKER = re.compile(r"\|(\d+)\|")
_PROMPT_SETTINGS = ("reference_path", "mask_strategy")
_UNSAFE_IN_FILE_NAMES = re.compile(r"[\\/\x00-\x1f]")
_MAX_PROMPT_IN_FILE_NAME = 50


def load_prompts(path: str | os.PathLike[str]) -> list[str]:
    """The prompts of a UTF-8 text file, one per line, stripped; blank lines are skipped.

    Raises: FileNotFoundError if there is no such file; ValueError if it is not UTF-8 text or holds no prompt.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no prompt file at '{path}': give a text file with one prompt per line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"prompt file '{path}' is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"prompt file '{path}' holds no prompt: write one prompt per line")
    return prompts


def extract_json_from_prompts(
    prompts: Sequence[str], reference: Sequence[str], mask_strategy: Sequence[str]
) -> tuple[list[str], list[str], list[str]]:
    """Prompts without their trailing JSON, and the references and mask strategies with what that JSON sets.

    A setting in a prompt wins over the one given for it in `reference` or `mask_strategy`.

    Raises: ValueError if the lists differ in length, or the braces of a prompt do not hold one JSON object
    with no
        other keys than reference_path and mask_strategy, both text.
    """
    if not len(prompts) == len(reference) == len(mask_strategy):
        raise ValueError(
            f"got {len(prompts)} prompts, {len(reference)} references and {len(mask_strategy)} mask "
            'strategies: give one of each per prompt, "" for none'
        )
    texts, references, strategies = [], list(reference), list(mask_strategy)
    for i, prompt in enumerate(prompts):
        text, brace, rest = prompt.partition("{")
        texts.append(text)
        settings = _parse_settings(prompt, brace + rest) if brace else {}
        references[i] = settings.get("reference_path", references[i])
        strategies[i] = settings.get("mask_strategy", strategies[i])
    return texts, references, strategies


def _parse_settings(prompt: str, text: str) -> dict[str, str]:
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"what follows '{{' in prompt {prompt!r} is not one JSON object ({error}): "
            "end the prompt with a single object, or write it without braces"
        ) from error
    for key, value in settings.items():
        if key not in _PROMPT_SETTINGS:
            raise ValueError(f"unknown setting {key!r} in prompt {prompt!r}: use {' or '.join(_PROMPT_SETTINGS)}")
        if not isinstance(value, str):
            raise ValueError(f"setting {key!r} in prompt {prompt!r} must be text in quotes, got {value!r}")
    return settings


def split_prompt(prompt_text: str) -> tuple[list[str], list[int] | None]:
    """The texts of a prompt's `|i|` segments, stripped, and the loops they start at.

    Only a prompt that starts with |0| has segments; for others this is ([prompt_text], None). Other `|` are
    text.

    Raises: ValueError if the loops do not ascend.
    """
    segments = _segments(prompt_text)
    if segments is None:
        return [prompt_text], None
    return [text.strip() for _, text in segments], [loop for loop, _ in segments]


def merge_prompt(text_list: Sequence[str], loop_idx_list: Sequence[int] | None = None) -> str:
    """The inverse of `split_prompt`.

    Raises: ValueError if there is not one text per loop index, or not exactly one text without loop indices.
    """
    expected = 1 if loop_idx_list is None else len(loop_idx_list)
    if len(text_list) != expected:
        raise ValueError(f"got {len(text_list)} prompt texts for loop indices {loop_idx_list}: expected {expected}")
    if loop_idx_list is None:
        return text_list[0]
    return "".join(f"|{loop}|{text}" for loop, text in zip(loop_idx_list, text_list, strict=True))


def extract_prompts_loop(prompts: Sequence[str], num_loop: int) -> list[str]:
    """The text of each prompt in loop `num_loop` (0-based): that of the last segment started by then.

    Raises: ValueError if the loops of a prompt do not ascend.
    """
    return [_text_of_loop(prompt, num_loop) for prompt in prompts]


def _text_of_loop(prompt: str, num_loop: int) -> str:
    segments = _segments(prompt)
    if segments is None:
        return prompt
    return [text for loop, text in segments if loop <= num_loop][-1]


def _segments(prompt: str) -> list[tuple[int, str]] | None:
    """(first loop, text) of each segment, or None for a prompt without segments."""
    if not prompt.startswith("|0|"):
        return None
    pieces = _SEGMENT_MARKER.split(prompt)[1:]  # loop, text, loop, text, ...
    loops = [int(loop) for loop in pieces[::2]]
    if any(later <= earlier for earlier, later in zip(loops, loops[1:], strict=False)):
        raise ValueError(f"the |i| markers of prompt {prompt!r} must ascend, got {loops}")
    return list(zip(loops, pieces[1::2], strict=True))


def append_score_to_prompts(
    prompts: Sequence[str],
    aes: float | None = None,
    flow: float | None = None,
    camera_motion: str | None = None,
) -> list[str]:
    """Prompts followed by the scores the model was trained to read; None appends nothing.

    `aes` is the aesthetic score (about 4 to 7, higher is prettier) and `flow` the motion score (0 is still,
    higher moves more). A score whose marker ("motion score:") a prompt already has is left to the prompt.
    """
    suffixes = []
    if aes is not None:
        suffixes.append(("aesthetic score:", f"{aes:.1f}"))
    if flow is not None:
        suffixes.append(("motion score:", f"{flow:.1f}"))
    if camera_motion is not None:
        suffixes.append(("camera motion:", camera_motion))
    return [
        prompt + "".join(f" {marker} {value}." for marker, value in suffixes if marker not in prompt)
        for prompt in prompts
    ]


def get_save_path_name(
    save_dir: str | os.PathLike[str],
    sample_name: str | None = None,
    sample_idx: int | None = None,
    prompt: str | None = None,
    prompt_as_path: bool = False,
    num_sample: int = 1,
    k: int | None = None,
) -> str:
    """Path of a sample without its ending: `sample_0003`, or the start of the prompt; `-k` if one of several.

    Path separators and control characters of a prompt become "_", so that every file stays in `save_dir`.

    Raises: ValueError if the part the name is made of (sample_idx, prompt or k) is missing.
    """
    name_source = "prompt" if prompt_as_path else "sample_idx"
    if (prompt if prompt_as_path else sample_idx) is None:
        raise ValueError(f"get_save_path_name needs {name_source} when prompt_as_path is {prompt_as_path}")
    if num_sample != 1 and k is None:
        raise ValueError(f"get_save_path_name needs k, the number of the sample, when num_sample is {num_sample}")
    if prompt_as_path:
        name = (sample_name or "") + _UNSAFE_IN_FILE_NAMES.sub("_", prompt[:_MAX_PROMPT_IN_FILE_NAME])
    else:
        name = f"{'sample' if sample_name is None else sample_name}_{sample_idx:04d}"
    if num_sample != 1:
        name = f"{name}-{k}"
    return os.path.join(save_dir, name)


def dframe_to_frame(num: int) -> int:
    """Number of frames that `num` latent frames decode to, in whole windows of 5 latent (17 pixel) frames.

    Raises: ValueError if `num` is not a multiple of 5.
    """
    if num < 0 or num % WINDOW_LATENTS:
        raise ValueError(f"the number of latent frames must be a multiple of {WINDOW_LATENTS}, got {num}")
    return num // WINDOW_LATENTS * WINDOW_FRAMES
