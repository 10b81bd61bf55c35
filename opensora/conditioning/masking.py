"""Conditioning on references: which latent frames are given instead of sampled.

Mask strategies (`opensora.conditioning.mask_strategy`) say where they go.

Source: opensora/utils/inference_utils.py (Open-Sora v1.2).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from opensora.conditioning.mask_strategy import MaskEntry, find_nearest_point, parse_mask_strategy


class _Placement(NamedTuple):
    """A mask entry resolved against a reference and the latents: non-negative starts, clipped length."""

    ref: torch.Tensor  # (C, t, H, W)
    ref_start: int
    target_start: int
    length: int
    edit_ratio: float


def apply_mask_strategy(
    z: torch.Tensor,
    refs_x: Sequence[Sequence[torch.Tensor] | None],
    mask_strategys: Sequence[str | None],
    loop_i: int,
    align: int | None = None,
    compat: bool = False,
) -> torch.Tensor | None:
    """Copy reference latents into `z` in place and return the mask (B, T): 1 is sampled, 0 is given, between is edited.

    Args:
        z: (B, C, T, H, W).
        refs_x: for each sample its references, (C, t, H, W) each.
        mask_strategys: one for each sample; an empty list means that there is no mask (None is returned).
        loop_i: the loop whose entries are placed.
        align: latent frames of a window. Starts of entries that fill a window are moved to multiples of it, as the
            autoencoder decodes windows one by one; None moves nothing.
        compat: move the starts of shorter entries, too, as upstream does, so that "the last frame" of five becomes
            the first.

    Raises:
        ValueError: a strategy names a reference or a frame that does not exist, or latents of another size; `z` is then
            unchanged.
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
            _place(entry, strategy, refs or (), z, align if compat or entry.length >= (align or 0) else None)
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


def append_clip(
    latents: torch.Tensor,
    refs_x: Sequence[Sequence[torch.Tensor]],
    mask_strategy: Sequence[str],
    loop_i: int,
    condition_frame_length: int,
    condition_frame_edit: float,
) -> tuple[list[list[torch.Tensor]], list[str]]:
    """Extend references and mask strategies so that loop `loop_i` starts with the end of the clip before it.

    The last `condition_frame_length` frames of that clip's `latents` (B, C, T, H, W) become the first ones of the next
    clip, with edit ratio `condition_frame_edit`. The arguments are not changed, so that another sample of the same
    prompt can start from them again.

    Raises:
        ValueError: the number of references or mask strategies is not the batch size.

    Source: Open-Sora v1.2, `append_generated`, which also encodes the clip.
    """
    if not len(latents) == len(refs_x) == len(mask_strategy):
        raise ValueError(
            f"got {len(refs_x)} lists of references and {len(mask_strategy)} mask strategies for a batch of "
            f"{len(latents)}: give one of each per sample, empty for none"
        )
    refs = [[*refs, ref] for refs, ref in zip(refs_x, latents, strict=True)]
    strategies = [
        (f"{strategy};" if strategy else "")
        + f"{loop_i},{len(own) - 1},-{condition_frame_length},0,{condition_frame_length},{condition_frame_edit}"
        for strategy, own in zip(mask_strategy, refs, strict=True)
    ]
    return refs, strategies
