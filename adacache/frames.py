"""Sets of frames that take part in a step, for videos of which some frames are given and held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrameSet:
    """The frames that take part in a step, for each video of a track; `videos` is None if all of them do.

    Two sets are equal if the same frames take part. Row r of a tensor belongs to video r % len(videos), and its frames
    stand one after another in dimension 1: (B, T, ...), or tokens frame by frame (B, N, ...).
    """

    videos: tuple[tuple[bool, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.videos is not None and all(map(all, self.videos)):
            object.__setattr__(self, "videos", None)  # so that nothing is gathered or copied

    def of_video(self, index: int) -> FrameSet:
        """Return the frames of one video."""
        return self if self.videos is None else FrameSet((self.videos[index],))

    def common(self, other: FrameSet) -> FrameSet:
        """Return the frames that are in both sets."""
        if self.videos is None or other.videos is None:
            return other if self.videos is None else self
        pairs = zip(self.videos, other.videos, strict=True)
        return FrameSet(tuple(tuple(a and b for a, b in zip(*pair, strict=True)) for pair in pairs))

    def differs(self, other: FrameSet) -> tuple[bool, ...]:
        """Return for each video whether its frames differ; not for two sets in which all frames take part."""
        known = self.videos or other.videos
        every = ((True,) * len(known[0]),) * len(known)
        return tuple(a != b for a, b in zip(self.videos or every, other.videos or every, strict=True))

    def part(self, frames: slice) -> FrameSet:
        """Return the set as seen by a process that holds only these `frames` of the videos."""
        return self if self.videos is None else FrameSet(tuple(video[frames] for video in self.videos))

    @property
    def is_empty(self) -> bool:
        """Whether no frame of any video takes part."""
        return self.videos is not None and not any(map(any, self.videos))

    def take(self, tensor: Tensor) -> Tensor:
        """Return these frames only, as (frames of all rows, tokens, ...), or the tensor as it is if all take part."""
        if self.videos is None:
            return tensor
        rows, frames = self._places(tensor, 0)
        return self._by_frame(tensor)[rows, frames]

    def take_pairs(self, tensor: Tensor, stride: int, tokens_per_frame: int) -> tuple[Tensor, Tensor] | None:
        """Return later and earlier frames of (B, N, ...) that both take part and lie `stride` apart, in one shape.

        The result is None if there are none.
        """
        if self.videos is None:
            shift = stride * tokens_per_frame
            return (tensor[:, shift:], tensor[:, :-shift]) if shift < tensor.shape[1] else None
        rows, earlier = self._places(tensor, stride)
        if not len(rows):
            return None
        by_frame = self._by_frame(tensor)
        return by_frame[rows, earlier + stride], by_frame[rows, earlier]

    def _by_frame(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(1, (len(self.videos[0]), -1))  # (B, T, tokens of a frame, ...)

    def _places(self, tensor: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        """Return indices of rows, and of frames in them, that take part together with the frame `stride` later."""
        of_row = [self.videos[row % len(self.videos)] for row in range(len(tensor))]
        places = [
            (row, frame)
            for row, generated in enumerate(of_row)
            for frame in range(len(generated) - stride)
            if generated[frame] and generated[frame + stride]
        ]
        # A mask, or indices made on the device, would make the host wait for all work that was queued before.
        indices = torch.tensor(places, dtype=torch.long).reshape(-1, 2).to(tensor.device, non_blocking=True)
        return indices[:, 0], indices[:, 1]


ALL_FRAMES = FrameSet()


def read_frames(value: Sequence[Sequence[bool]], num_videos: int, num_frames: int | None) -> FrameSet:
    """Return the frames that a caller lists for a step; `num_frames` is their number in the steps before, if known.

    Raises:
        ValueError: it is not a list of plain bools for every video, all of the same length.
    """
    try:
        videos = tuple(map(tuple, value))
    except TypeError:
        videos = ()
    if len(videos) != num_videos:
        raise ValueError(
            f"generated_frames must have a list of bools for each of the {num_videos} videos of the run, "
            f"got {len(videos) or repr(value)}"
        )
    # A tensor's numbers would pass for bools, but looking at each one would make the host wait for the device.
    if not all(isinstance(generated, bool) for frames in videos for generated in frames):
        raise ValueError("generated_frames must hold plain bools; read a tensor once before the run, with .tolist()")
    lengths = {len(frames) for frames in videos} | ({num_frames} - {None})
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            "generated_frames must have a bool for every frame, the same number for all videos and steps of a run, "
            f"got lists of {', '.join(map(str, sorted(lengths)))}"
        )
    return FrameSet(videos)
