"""Prompt syntax: from a line in a prompt file to the text and settings of each generated clip.

    |0| a sunny day |2| a rainy day {"reference_path": "day.png", "mask_strategy": "0"}

`|i|` starts the text used from loop i on; the JSON object at the end sets the reference and the mask strategy
of this prompt. No function here changes its arguments.

Source: opensora/utils/inference_utils.py (Open-Sora v1.2).
"""

import logging
import math
import os
import re
from collections.abc import Sequence

from opensora.models.text_encoder.caption_cleaning import text_preprocessing
from opensora.prompts.strict_json import decode_all

# One temporal window of the autoencoder: 17 frames become 5 latent frames.
WINDOW_FRAMES = 17
WINDOW_LATENTS = 5

logger = logging.getLogger(__name__)

_SEGMENT_MARKER = re.compile(r"\|([0-9]{1,9})\|")
_START_OF_MARKER = re.compile(r"\|[0-9]{1,9}\Z")  # becomes a marker in front of a "|"
_PROMPT_SETTINGS = ("reference_path", "mask_strategy")
_MAX_PROMPT_IN_FILE_NAME = 50
_MAX_PROMPT_IN_MESSAGE = 200

# File systems give a name 255 bytes; the rest is for endings (".frames.npz") and temporary names.
MAX_STEM_BYTES = 200

# Separators, what Windows refuses, control and line-separating characters, marks that change the direction of
# writing (a name could show another ending than it has), and halves of surrogate pairs, which have no UTF-8 bytes.
_UNSAFE = re.compile(r'[\\/<>:"|?*\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
_TRAILING = re.compile(r"[\s.]+\Z")  # Windows drops them
_RESERVED = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    | {f"{device}{number}" for device in ("COM", "LPT") for number in "0123456789¹²³"}
)


def extract_json_from_prompts(
    prompts: Sequence[str], reference: Sequence[str], mask_strategy: Sequence[str]
) -> tuple[list[str], list[str], list[str]]:
    """Return the prompts without their trailing JSON, and the references and mask strategies as that JSON sets them.

    A setting in a prompt wins over the one given for it in `reference` or `mask_strategy`.

    Raises:
        ValueError: the lists differ in length, or the braces of a prompt do not hold one JSON object with no keys but
            reference_path and mask_strategy, both text.
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
        settings = decode_all(text)
    except ValueError as error:
        raise ValueError(
            f"what follows '{{' in prompt {_quoted(prompt)} is not one JSON object ({error}): "
            "end the prompt with a single object, or write it without braces"
        ) from error
    for key, value in settings.items():
        if key not in _PROMPT_SETTINGS:
            raise ValueError(
                f"unknown setting {key!r} in prompt {_quoted(prompt)}: use {' or '.join(_PROMPT_SETTINGS)}"
            )
        if not isinstance(value, str):
            raise ValueError(f"setting {key!r} in prompt {_quoted(prompt)} must be text in quotes, got {value!r}")
    return settings


def _quoted(prompt: str) -> str:
    """Return the prompt for a message: in quotes, on one line, and cut if it is long."""
    short = prompt if len(prompt) <= _MAX_PROMPT_IN_MESSAGE else prompt[: _MAX_PROMPT_IN_MESSAGE - 3] + "..."
    return repr(short)


def split_prompt(prompt_text: str) -> tuple[list[str], list[int] | None]:
    """Return the texts of a prompt's `|i|` segments, stripped, and the loops they start at.

    Only a prompt that starts with |0| has segments; for others this is ([prompt_text], None). Any other `|` is
    text.

    Raises:
        ValueError: the loops do not ascend.
    """
    segments = _segments(prompt_text)
    if segments is None:
        return [prompt_text], None
    return [text.strip() for _, text in segments], [loop for loop, _ in segments]


def merge_prompt(text_list: Sequence[str], loop_idx_list: Sequence[int] | None = None) -> str:
    """Join texts and loop indices into a prompt: the inverse of `split_prompt`.

    Raises:
        ValueError: there is not one text per loop index, or not exactly one text without loop indices; the indices do
            not start at 0 or do not ascend; or a text has a |i| marker of its own.
    """
    expected = 1 if loop_idx_list is None else len(loop_idx_list)
    if len(text_list) != expected or not expected:
        raise ValueError(
            f"got {len(text_list)} prompt texts for loop indices {loop_idx_list}: expected {expected or 1}"
        )
    if loop_idx_list is None:
        if text_list[0].startswith("|0|"):
            raise ValueError(f"prompt {_quoted(text_list[0])} has |i| markers: give its segments and their loops")
        return text_list[0]
    if loop_idx_list[0] != 0:
        raise ValueError(f"the first segment of a prompt must start at loop 0, got loops {[*loop_idx_list]}")
    _check_ascending(loop_idx_list, " ".join(text_list))
    merged = ""
    for loop, text in zip(loop_idx_list, text_list, strict=True):
        if _SEGMENT_MARKER.search(text):
            raise ValueError(f"the text of a segment cannot have |i| markers of its own, got {_quoted(text)}")
        # The end of the text before and the "|" of this marker must not make another marker.
        merged += " " if _START_OF_MARKER.search(merged) else ""
        merged += f"|{loop}|{text}"
    return merged


def extract_prompts_loop(prompts: Sequence[str], num_loop: int) -> list[str]:
    """Return the text of each prompt in loop `num_loop` (0-based): that of the last segment started by then.

    Raises:
        ValueError: the loops of a prompt do not ascend, or `num_loop` is negative.
    """
    if num_loop < 0:
        raise ValueError(f"loops are counted from 0, got {num_loop}")
    return [_text_of_loop(prompt, num_loop) for prompt in prompts]


def _text_of_loop(prompt: str, num_loop: int) -> str:
    segments = _segments(prompt)
    if segments is None:
        return prompt
    return [text for loop, text in segments if loop <= num_loop][-1]


def _segments(prompt: str) -> list[tuple[int, str]] | None:
    """Return (first loop, text) of each segment, or None for a prompt without segments."""
    if not prompt.startswith("|0|"):
        return None
    pieces = _SEGMENT_MARKER.split(prompt)[1:]  # loop, text, loop, text, ...
    loops = [int(loop) for loop in pieces[::2]]
    _check_ascending(loops, prompt)
    return list(zip(loops, pieces[1::2], strict=True))


def _check_ascending(loops: Sequence[int], prompt: str) -> None:
    if any(later <= earlier for earlier, later in zip(loops, loops[1:], strict=False)):
        raise ValueError(f"the |i| markers of prompt {_quoted(prompt)} must ascend, got {[*loops]}")


def append_score_to_prompts(
    prompts: Sequence[str],
    aes: float | None = None,
    flow: float | None = None,
    camera_motion: str | None = None,
) -> list[str]:
    """Append to prompts the scores that the model was trained to read; None appends nothing.

    `aes` is the aesthetic score (about 4 to 7, higher is prettier) and `flow` the motion score (0 is still,
    higher moves more). A score is not appended to a prompt that already has its marker ("motion score:").

    Raises:
        ValueError: a score is not finite.
    """
    for name, score in (("aes", aes), ("flow", flow)):
        if score is not None and not math.isfinite(score):
            raise ValueError(f"{name} must be a finite number, got {score}")
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


def prepare_captions(
    text: str, aes: float | None, flow: float | None, camera_motion: str | None, loops: int
) -> list[str]:
    """Return the caption of each of `loops` clips of one prompt, after any refinement by a language model.

    The object at the end is dropped, every `|i|` segment gets the scores and is cleaned by itself, and each loop reads
    the last segment started by then.

    Args:
        aes, flow, camera_motion: appended to the text by `append_score_to_prompts`; None appends nothing.

    Raises:
        ValueError: the object or the markers cannot be read, a score is not finite, or `loops` is below 1.

    Source: scripts/inference.py (Open-Sora v1.2).
    """
    if loops < 1:
        raise ValueError(f"a video has at least 1 loop, got {loops}")
    [text], _, _ = extract_json_from_prompts([text], [""], [""])
    segments, starts = split_prompt(text)
    for segment in segments:
        if segment.strip() and not text_preprocessing(segment):
            logger.warning("nothing is left of '%s' after caption cleaning; the model reads English", segment.strip())
    scored = append_score_to_prompts(segments, aes, flow, camera_motion)
    # Not merged and split again, as upstream does: cleaning can uncover a "|2|" that was escaped.
    captions = [text_preprocessing(segment) for segment in scored]
    starts = starts or [0]
    return [captions[_last_started(starts, loop)] for loop in range(loops)]


def _last_started(starts: list[int], loop: int) -> int:
    """Return the index of the last segment that starts at `loop` or before; the first one starts at 0."""
    return max(i for i, start in enumerate(starts) if start <= loop)


def get_save_path_name(
    save_dir: str | os.PathLike[str],
    sample_name: str | None = None,
    sample_idx: int | None = None,
    prompt: str | None = None,
    prompt_as_path: bool = False,
    num_sample: int = 1,
    k: int | None = None,
) -> str:
    """Return a sample's path without its ending: `sample_0003`, or the start of the prompt; `-k` if one of several.

    Characters that a file system refuses or that lead elsewhere become "_", and a name that is too long is cut
    (`safe_stem`), so that every file stays in `save_dir` and can be copied to another system.

    Raises:
        ValueError: the part the name is made of (sample_idx, prompt or k) is missing.
    """
    name_source = "prompt" if prompt_as_path else "sample_idx"
    if (prompt if prompt_as_path else sample_idx) is None:
        raise ValueError(f"get_save_path_name needs {name_source} when prompt_as_path is {prompt_as_path}")
    if num_sample != 1 and k is None:
        raise ValueError(f"get_save_path_name needs k, the number of the sample, when num_sample is {num_sample}")
    tail = "" if num_sample == 1 else f"-{k}"
    if prompt_as_path:
        stem = safe_stem((sample_name or "") + prompt[:_MAX_PROMPT_IN_FILE_NAME], tail)
    else:
        stem = safe_stem("sample" if sample_name is None else sample_name, f"_{sample_idx:04d}{tail}")
    return os.path.join(save_dir, stem)


def safe_stem(name: str, tail: str = "") -> str:
    """Join `name` and `tail` into a file name without its ending; a name that is safe already stays as it is.

    `name` is cut to the bytes that `tail`, such as "_0003", leaves, so that numbers are never lost.
    """
    room = MAX_STEM_BYTES - len(tail.encode())
    stem = _cut(_UNSAFE.sub("_", name).strip(), room) + tail
    # A command takes a leading "-" for an option; a leading "." hides the file.
    if not stem or stem[0] in "-." or stem.split(".")[0].rstrip().upper() in _RESERVED:
        stem = _cut("_" + stem.removesuffix(tail), room) + tail
    return stem


def _cut(text: str, num_bytes: int) -> str:
    """Return the start of `text` that fits into `num_bytes`, without blanks and dots at its end."""
    return _TRAILING.sub("", text.encode()[: max(num_bytes, 0)].decode(errors="ignore"))


def dframe_to_frame(num: int) -> int:
    """Return the number of frames that `num` latent frames decode to, in whole windows of 5 latent (17 pixel) frames.

    Raises:
        ValueError: `num` is not a multiple of 5.
    """
    if num < 0 or num % WINDOW_LATENTS:
        raise ValueError(f"the number of latent frames must be a multiple of {WINDOW_LATENTS}, got {num}")
    return num // WINDOW_LATENTS * WINDOW_FRAMES
