"""From a prompt as the user wrote it to the caption that the text encoder reads in each loop."""

from __future__ import annotations

import logging

from opensora.models.text_encoder.caption_cleaning import text_preprocessing
from opensora.prompts.syntax import append_score_to_prompts, extract_json_from_prompts, split_prompt

logger = logging.getLogger(__name__)


def prepare_captions(
    text: str, aes: float | None, flow: float | None, camera_motion: str | None, loops: int
) -> list[str]:
    """The caption of each of ``loops`` clips of one prompt, which a language model has refined before if it shall.

    The object at the end goes, every ``|i|`` segment gets the scores and is cleaned by itself, and each loop reads the
    last segment started by then.

    Args:
        aes, flow, camera_motion: what is appended to the text, see ``append_score_to_prompts``; None appends nothing.

    Raises:
        ValueError: the object or the markers cannot be read, a score is not finite, or ``loops`` is below 1.

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
    """Index of the last segment that starts at ``loop`` or before; the first one starts at 0."""
    return max(i for i, start in enumerate(starts) if start <= loop)
