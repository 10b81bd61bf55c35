"""Mask strategies: texts that say which latent frames are given, by which reference.

A text of entries separated by ";", each "loop,ref_id,ref_start,target_start,length,edit_ratio" with defaults
0,0,0,0,1,0. In loop `loop`, `length` latent frames of reference `ref_id` from `ref_start` on are put at
`target_start`; negative starts count from the end. `edit_ratio` is 0 to keep the frames, 1 to sample them freely.

Source: opensora/utils/inference_utils.py (Open-Sora v1.2).
"""

from collections.abc import Sequence
from typing import NamedTuple


class MaskEntry(NamedTuple):
    """One entry of a mask strategy; starts and length in latent frames."""

    loop: int = 0
    ref_id: int = 0
    ref_start: int = 0
    target_start: int = 0
    length: int = 1
    edit_ratio: float = 0.0


def parse_mask_strategy(mask_strategy: str | None) -> list[MaskEntry]:
    """The entries of a mask strategy, none for "" or None.

    Raises: ValueError if an entry is empty, too long or not made of numbers, or a number is out of range.
    """
    return [_parse_entry(text, mask_strategy) for text in mask_strategy.split(";")] if mask_strategy else []


def _parse_entry(text: str, mask_strategy: str) -> MaskEntry:
    fields = text.split(",")
    names = ",".join(MaskEntry._fields)
    error = f"mask strategy '{mask_strategy}': entry '{text}' must be one to six numbers {names}"
    if len(fields) > len(MaskEntry._fields):
        raise ValueError(f"{error}, got {len(fields)}")
    try:
        entry = MaskEntry(*(int(field) for field in fields[:5]), *(float(field) for field in fields[5:]))
    except ValueError:
        raise ValueError(f"{error}, whole but for the last") from None
    if entry.loop < 0 or entry.ref_id < 0 or entry.length < 1 or not 0 <= entry.edit_ratio <= 1:
        raise ValueError(f"{error}, with loop and ref_id from 0, length from 1 and edit_ratio between 0 and 1")
    return entry


def check_mask_strategy(mask_strategy: str, num_references: int) -> None:
    """Refuse a mask strategy that cannot be parsed, or that names a reference which is not there.

    Raises: ValueError in one sentence.
    """
    for entry in parse_mask_strategy(mask_strategy):
        if entry.ref_id >= num_references:
            given = f"{num_references} are" if num_references != 1 else "1 is"
            raise ValueError(
                f"mask strategy '{mask_strategy}' uses reference {entry.ref_id}, counted from 0, but {given} given; "
                "add it to the prompt's reference_path, separated by ';', or drop the entry"
            )


def default_mask_strategy(are_videos: Sequence[bool], chunk: int) -> str:
    """What is meant by references without a mask strategy; `chunk` is the latent frames of a window.

    The first one is the beginning: an image the first frame, a video continued from its last window. A second one is
    the end: an image the last frame, a video led up to by its first window. More than two need a strategy.

    Raises: ValueError for more than two references.
    """
    if len(are_videos) > 2:
        raise ValueError(
            f"{len(are_videos)} references need a mask strategy that says where they go, "
            "such as --mask-strategy '0,0,0,0,1,0;0,1,0,7,1,0;0,2,0,-1,1,0'"
        )
    first = [f"0,0,-{chunk},0,{chunk}" if video else "0,0,0,0,1" for video in are_videos[:1]]
    last = [f"0,1,0,-{chunk},{chunk}" if video else "0,1,0,-1,1" for video in are_videos[1:]]
    return ";".join(first + last)
