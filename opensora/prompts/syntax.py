"""Prompt syntax: from a line in a prompt file to the text, settings and file name of each generated clip.

    |0| a sunny day |2| a rainy day {"reference_path": "day.png", "mask_strategy": "0"}

`|i|` starts the text used from loop i on; the JSON object at the end sets the reference and the mask strategy
of this prompt.

Source: opensora/utils/inference_utils.py (Open-Sora v1.2).
"""

import logging
import math
import re
from bisect import bisect_right
from collections.abc import Sequence

from opensora.files import is_utf8
from opensora.models.text_encoder.caption_cleaning import text_preprocessing
from opensora.prompts.strict_json import decode

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


def split_settings(prompt: str) -> tuple[str, dict[str, str]]:
    """Return a prompt without the JSON object at its end, and what that sets.

    Raises:
        ValueError: the braces do not hold one JSON object with no keys but reference_path and mask_strategy, both text.
    """
    text, brace, rest = prompt.partition("{")
    if not brace:
        return text, {}
    try:
        settings = decode(brace + rest)
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
        if "\0" in value or not is_utf8(value):
            raise ValueError(
                f"setting {key!r} in prompt {_quoted(prompt)} has a character that is not text (NUL, or half of a "
                "surrogate pair)"
            )
    return text, settings


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
    if not prompt_text.startswith("|0|"):
        return [prompt_text], None
    pieces = _SEGMENT_MARKER.split(prompt_text)[1:]  # loop, text, loop, text, ...
    loops = [int(loop) for loop in pieces[::2]]
    _check_ascending(loops, prompt_text)
    return [text.strip() for text in pieces[1::2]], loops


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


def _check_ascending(loops: Sequence[int], prompt: str) -> None:
    if any(later <= earlier for earlier, later in zip(loops, loops[1:], strict=False)):
        raise ValueError(f"the |i| markers of prompt {_quoted(prompt)} must ascend, got {[*loops]}")


def with_scores(
    prompt: str, aes: float | None = None, flow: float | None = None, camera_motion: str | None = None
) -> str:
    """Append to a prompt the scores that the model was trained to read; None appends nothing.

    `aes` is the aesthetic score (about 4 to 7, higher is prettier) and `flow` the motion score (0 is still, higher
    moves more). A score is not appended to a prompt that already has its marker ("motion score:").

    Raises:
        ValueError: a score is not finite.
    """
    scored = prompt
    for name, marker, score in (("aes", "aesthetic score:", aes), ("flow", "motion score:", flow)):
        if score is not None and not math.isfinite(score):
            raise ValueError(f"{name} must be a finite number, got {score}")
        if score is not None and marker not in prompt:
            scored += f" {marker} {score:.1f}."
    if camera_motion is not None and "camera motion:" not in prompt:
        scored += f" camera motion: {camera_motion}."
    return scored


def prepare_captions(
    text: str, aes: float | None, flow: float | None, camera_motion: str | None, loops: int
) -> list[str]:
    """Return the caption of each of `loops` clips of one prompt, after any refinement by a language model.

    The object at the end is dropped, every `|i|` segment gets the scores and is cleaned by itself, and each loop reads
    the last segment started by then.

    Args:
        aes, flow, camera_motion: appended to the text by `with_scores`; None appends nothing.

    Raises:
        ValueError: the object or the markers cannot be read, a score is not finite, or `loops` is below 1.

    Source: scripts/inference.py (Open-Sora v1.2).
    """
    if loops < 1:
        raise ValueError(f"a video has at least 1 loop, got {loops}")
    segments, starts = split_prompt(split_settings(text)[0])
    for segment in segments:
        if segment.strip() and not text_preprocessing(segment):
            logger.warning("nothing is left of '%s' after caption cleaning; the model reads English", segment.strip())
    # Not merged and split again, as upstream does: cleaning can uncover a "|2|" that was escaped.
    captions = [text_preprocessing(with_scores(segment, aes, flow, camera_motion)) for segment in segments]
    return [captions[bisect_right(starts or [0], loop) - 1] for loop in range(loops)]


def sample_stem(sample_name: str | None, index: int, prompt: str | None = None) -> str:
    """Return a sample's file name without its ending: `sample_0003` or, of a `prompt`, its start.

    Characters that a file system refuses or that lead elsewhere become "_", and a name that is too long is cut
    (`safe_stem`), so that every file stays in its folder and can be copied to another system.
    """
    if prompt is not None:
        return safe_stem((sample_name or "") + prompt[:_MAX_PROMPT_IN_FILE_NAME])
    return safe_stem("sample" if sample_name is None else sample_name, f"_{index:04d}")


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
