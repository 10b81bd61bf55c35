"""The mini model's caption check as two numbers per clip."""

from __future__ import annotations

import numpy as np

from mini.check.check import check_clip
from mini.check.describe import MIN_SIDE
from mini.world.captions import parse_caption, vocabulary
from mini.world.paths import FRAMES


def is_caption(prompt: str) -> bool:
    """Whether a prompt describes a scene of the mini model's world, in its words only."""
    if not set(prompt.lower().rstrip(".").split()) <= set(vocabulary()):
        return False
    try:
        parse_caption(prompt)
    except ValueError:
        return False
    return True


def caption_scores(frames: np.ndarray, prompt: str | None) -> dict[str, float]:
    """Share of right items ("caption_items"), and 1 if all are right, else 0 ("caption_right").

    Empty for a prompt that is no such caption, and for a clip (F, H, W, 3) too short or too small for the check.
    """
    if len(frames) < FRAMES or min(frames.shape[1:3]) < MIN_SIDE or prompt is None or not is_caption(prompt):
        return {}
    items = check_clip(frames, prompt).items().values()
    return {"caption_items": sum(items) / len(items), "caption_right": float(all(items))}
