"""Conditioning on references: which latent frames are given instead of sampled.

A mask strategy is a text of entries separated by ";", each
"loop,ref_id,ref_start,target_start,length,edit_ratio" with defaults 0,0,0,0,1,0. In loop `loop`, `length`
latent frames of reference `ref_id` from `ref_start` on are put at `target_start`; negative starts count from
the end. `edit_ratio` is 0 to keep the frames, 1 to sample them freely.

Source: opensora/utils/inference_utils.py (Open-Sora v1.2).
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch


class MaskEntry(NamedTuple):
    """One entry of a mask strategy; starts and length in latent frames."""

    loop: int = 0
    ref_id: int = 0
    ref_start: int = 0
    target_start: int = 0
    length: int = 1
    edit_ratio: float = 0.0


class VideoEncoder(Protocol):
    """What `append_generated` needs of an autoencoder."""

    def encode(self, x: torch.Tensor) -> torch.Tensor: ...


class _Placement(NamedTuple):
    """A mask entry resolved against a reference and the latents: non-negative starts, clipped length."""

    ref: torch.Tensor  # (C, t, H, W)
    ref_start: int
    target_start: int
    length: int
    edit_ratio: float


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


def find_nearest_point(value: int, point: int, max_value: int) -> int:
    """`value` moved to a multiple of `point`: down, or up if nearer and not past the last whole block.

    Within the last whole block there is no rounding up: of 10 frames in blocks of 5, the last (9) moves to 5.
    """
    block = value // point
    if value % point > point / 2 and block < max_value // point - 1:
        block += 1
    return block * point


def apply_mask_strategy(
    z: torch.Tensor,
    refs_x: Sequence[Sequence[torch.Tensor] | None],
    mask_strategys: Sequence[str | None],
    loop_i: int,
    align: int | None = None,
) -> torch.Tensor | None:
    """Copy reference latents into `z` in place and return the mask [B, T]: 1 is sampled, 0 is given.

    `z` is [B, C, T, H, W] and `refs_x[b]` holds the references of sample b, each [C, t, H, W]. `align` moves
    the starts to multiples of the latent frames per window. Without strategies (an empty list) there is no
    mask: None.

    Raises: ValueError if a strategy names a reference or a frame that does not exist; `z` is unchanged then.
    """
    if not mask_strategys:
        return None
    if not z.shape[0] == len(refs_x) == len(mask_strategys):
        raise ValueError(
            f"got {len(mask_strategys)} mask strategies and {len(refs_x)} lists of references for a batch of "
            f"{z.shape[0]}: give one of each per sample, empty for none"
        )
    placements = [
        [
            _place(entry, strategy, refs or (), z, align)
            for entry in parse_mask_strategy(strategy)
            if entry.loop == loop_i
        ]
        for strategy, refs in zip(mask_strategys, refs_x, strict=True)
    ]
    mask = torch.ones(z.shape[0], z.shape[2], dtype=torch.float, device=z.device)  # (B, T)
    for b, sample_placements in enumerate(placements):
        for place in sample_placements:
            target = slice(place.target_start, place.target_start + place.length)
            z[b, :, target] = place.ref[:, place.ref_start : place.ref_start + place.length]
            mask[b, target] = place.edit_ratio
    return mask


def _place(
    entry: MaskEntry, strategy: str, refs: Sequence[torch.Tensor], z: torch.Tensor, align: int | None
) -> _Placement:
    if entry.ref_id >= len(refs):
        raise ValueError(
            f"mask strategy '{strategy}' uses reference {entry.ref_id} (0-based), but the sample has "
            f"{len(refs)}: give that reference or drop the entry"
        )
    ref = refs[entry.ref_id]
    num_ref, num_target = ref.shape[1], z.shape[2]
    if ref.shape[0] != z.shape[1] or ref.shape[2:] != z.shape[3:]:
        raise ValueError(
            f"reference {entry.ref_id} has latents of shape {tuple(ref.shape)}, but the video's are "
            f"{tuple(z.shape[1:])}: encode the reference at the size of the video"
        )
    ref_start = _resolve_start(entry.ref_start, num_ref, align, f"ref_start of mask strategy '{strategy}'")
    target_start = _resolve_start(entry.target_start, num_target, align, f"target_start of mask strategy '{strategy}'")
    length = min(entry.length, num_target - target_start, num_ref - ref_start)
    return _Placement(ref, ref_start, target_start, length, entry.edit_ratio)


def _resolve_start(start: int, num_frames: int, align: int | None, what: str) -> int:
    if not -num_frames <= start < num_frames:
        raise ValueError(
            f"{what} is {start}, but there are {num_frames} latent frames: "
            f"use a start from {-num_frames} to {num_frames - 1}"
        )
    start %= num_frames  # negative starts count from the end
    return start if align is None else find_nearest_point(start, align, num_frames)


def append_generated(
    vae: VideoEncoder,
    generated_video: torch.Tensor,
    refs_x: Sequence[Sequence[torch.Tensor] | None],
    mask_strategy: Sequence[str | None],
    loop_i: int,
    condition_frame_length: int,
    condition_frame_edit: float,
) -> tuple[list[list[torch.Tensor]], list[str]]:
    """References and mask strategies extended so that loop `loop_i` starts with the end of `generated_video`.

    `generated_video` is [B, 3, T, H, W] in [-1, 1]; its last `condition_frame_length` latent frames become
    the first ones of the next clip, with edit ratio `condition_frame_edit`. The arguments are not changed, so
    that another sample of the same prompt can start from them again.

    Raises: ValueError if the number of references or mask strategies is not the batch size.
    """
    if not generated_video.shape[0] == len(refs_x) == len(mask_strategy):
        raise ValueError(
            f"got {len(refs_x)} lists of references and {len(mask_strategy)} mask strategies for a batch of "
            f"{generated_video.shape[0]}: give one of each per sample, empty for none"
        )
    latents = vae.encode(generated_video)  # (B, C, t, H', W')
    new_refs = [[*(refs or ()), ref] for refs, ref in zip(refs_x, latents, strict=True)]
    n = condition_frame_length
    new_strategies = [
        (f"{strategy};" if strategy else "") + f"{loop_i},{len(refs) - 1},-{n},0,{n},{condition_frame_edit}"
        for strategy, refs in zip(mask_strategy, new_refs, strict=True)
    ]
    return new_refs, new_strategies
