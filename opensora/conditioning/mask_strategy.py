"""Mask strategies: texts that say which latent frames are given, and by which reference.

A strategy is a list of entries separated by ";", each "loop,ref_id,ref_start,target_start,length,edit_ratio" with
defaults 0,0,0,0,1,0. In loop `loop`, `length` latent frames of reference `ref_id`, from `ref_start` on, are put at
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
    """Return the entries of a mask strategy; none for "" or None.

    Raises:
        ValueError: an entry is empty, too long or not made of numbers, or a number is out of range.
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
        raise ValueError(
            f"{error}, with loop and ref_id of at least 0, length of at least 1 and edit_ratio between 0 and 1"
        )
    return entry


def check_mask_strategy(mask_strategy: str, num_references: int) -> None:
    """Refuse a mask strategy that cannot be parsed or that names a reference which is not given.

    Raises:
        ValueError: the strategy cannot be used; one sentence says why.
    """
    for entry in parse_mask_strategy(mask_strategy):
        if entry.ref_id >= num_references:
            given = f"{num_references} are" if num_references != 1 else "1 is"
            raise ValueError(
                f"mask strategy '{mask_strategy}' uses reference {entry.ref_id}, counted from 0, but {given} given; "
                "add it to the prompt's reference_path, separated by ';', or drop the entry"
            )


def default_mask_strategy(are_videos: Sequence[bool], chunk: int, loops: int = 1) -> str:
    """Return the mask strategy of references that come without one; `chunk` is the latent frames of a window.

    The first reference is the beginning: an image is the first frame, and a video is continued from its last window.
    The second is the end, that of the last loop: an image is the last frame, and the first window of a video is the
    last one of the result.

    Raises:
        ValueError: there are more than two references, which need a strategy.
    """
    if len(are_videos) > 2:
        raise ValueError(
            f"{len(are_videos)} references need a mask strategy that says where they go, "
            "such as --mask-strategy '0,0,0,0,1,0;0,1,0,7,1,0;0,2,0,-1,1,0'"
        )
    first = [f"0,0,-{chunk},0,{chunk}" if video else "0,0,0,0,1" for video in are_videos[:1]]
    last = [f"{loops - 1},1,0,{f'-{chunk},{chunk}' if video else '-1,1'}" for video in are_videos[1:]]
    return ";".join(first + last)


def find_nearest_point(value: int, point: int, max_value: int) -> int:
    """Move `value` to a multiple of `point`: down, or up if that is nearer and not past the last whole block.

    Within the last whole block nothing moves up: of 10 frames in blocks of 5, the last (9) moves to 5.
    """
    block = value // point
    if value % point > point / 2 and block < max_value // point - 1:
        block += 1
    return block * point


def check_placement(
    mask_strategy: str,
    num_latents: int,
    reference_latents: Sequence[int | None],
    align: int | None,
    loops: int = 1,
    carried: int = 0,
    carried_edit: float = 0.0,
    compat: bool = False,
) -> None:
    """Refuse a mask strategy that reaches beyond the video, a reference or the loops, or leaves nothing to make.

    Args:
        num_latents: latent frames of each clip of the video.
        reference_latents: latent frames of every reference; None where the number is not known.
        align, compat: as for `apply_mask_strategy`.
        carried: first latent frames of later clips, which are those of the clip before, whatever else is put there.
        carried_edit: edit ratio of those.

    Raises:
        ValueError: the strategy cannot be used; one sentence says why.
    """
    given: dict[int, set[int]] = {}
    for entry in parse_mask_strategy(mask_strategy):
        if entry.loop >= loops:
            there = "there is 1" if loops == 1 else f"there are {loops}"
            raise ValueError(
                f"mask strategy '{mask_strategy}' has an entry for loop {entry.loop}, but loops are counted from 0 and "
                f"{there}; set --loop {entry.loop + 1}"
            )
        of_reference = reference_latents[entry.ref_id]
        for start, count, what in (
            (entry.target_start, num_latents, "the video has"),
            (entry.ref_start, of_reference, f"reference {entry.ref_id} has"),
        ):
            if count is not None and not -count <= start < count:
                raise ValueError(
                    f"mask strategy '{mask_strategy}' begins at latent frame {start}, but {what} {count}; use a start "
                    f"from {-count} to {count - 1}, or more frames"
                )
        is_moved = align is not None and (compat or entry.length >= align)
        start, length = entry.target_start % num_latents, entry.length
        if is_moved:
            aligned = find_nearest_point(start, align, num_latents)
            if entry.target_start < 0 and aligned != start and not compat:
                raise ValueError(
                    f"mask strategy '{mask_strategy}' counts {-entry.target_start} latent frames back from the end of "
                    f"{num_latents}, but {length} of them can only begin at a multiple of {align}, so the video would "
                    "not end with them; set a num_frames of whole chunks, or a start from 0 on"
                )
            start = aligned
        if of_reference is not None:
            ref_start = entry.ref_start % of_reference
            if is_moved:
                ref_start = find_nearest_point(ref_start, align, of_reference)
            length = min(length, of_reference - ref_start)
        if entry.loop > 0 and start + length <= carried:
            raise ValueError(
                f"mask strategy '{mask_strategy}' begins at latent frame {start} of loop {entry.loop}, but its first "
                f"{carried} are those of the clip before (condition_frame_length); use a start from {carried} on"
            )
        own, taken = given.setdefault(entry.loop, set()), range(start, min(start + length, num_latents))
        own.update(taken) if entry.edit_ratio == 0 else own.difference_update(taken)
    for loop, frames in given.items():
        if loop > 0:  # last of all
            frames.update(range(carried)) if carried_edit == 0 else frames.difference_update(range(carried))
        if len(frames) == num_latents:
            raise ValueError(
                f"mask strategy '{mask_strategy}' gives all {num_latents} latent frames of loop {loop} and leaves "
                "nothing to generate; set a larger num_frames, or an edit ratio above 0"
            )
