"""The processes that share a video: each has some of its frames or, in temporal blocks, some tokens of all frames.

Spatial attention looks at one frame at a time, temporal attention at one place of all frames. So each process has some
frames, and for the temporal block it exchanges them (all-to-all) for a part of the tokens of all frames, and back. Each
of P processes sends (P - 1) / P of its own part twice for a pair of blocks. Everything else works token by token. Any
numbers of frames and tokens will do: parts differ by one at most, and a process may have no frame at all.

Source of the exchange between the two attentions: Dynamic Sequence Parallelism, arXiv:2403.10266.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adacache.shard import WHOLE, Shard
from adacache.sites import Stream
from opensora.acceleration.channel import Channel, Purpose, Traffic
from opensora.acceleration.launch import MeshShape
from opensora.models.parts import even_parts
from opensora.models.stdit.blocks import Sharding
from opensora.protocols import VideoModel

_NOT_FINITE = -1  # sent instead of a number of frames


@dataclass(frozen=True)
class VideoGroup:
    """This process among those that share its videos.

    Attributes:
        shape: the arrangement of all processes.
        index: number of this group among those that make videos of their own.
        guidance: channel to the process with the other guidance branch; None if one process takes both.
        sequence: channel to the processes with the other frames of the same branch; None if frames are not split.
        video: channel to all processes that share the video; None if this process makes its videos alone.
    """

    shape: MeshShape = MeshShape()
    index: int = 0
    guidance: Channel | None = None
    sequence: Channel | None = None
    video: Channel | None = None
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def is_leader(self) -> bool:
        """Whether this process writes what the group makes."""
        return self.video is None or self.video.index == 0

    @property
    def share(self) -> tuple[int, int]:
        """(Number of this process, number of processes), for work that is cut into as many parts."""
        return (0, 1) if self.video is None else (self.video.index, self.video.size)

    def model(self, model: VideoModel) -> VideoModel | ParallelModel:
        """Return `model`, or a wrapper that shares its forward passes."""
        return model if self.video is None else ParallelModel(model, self)

    def shard(self, num_frames: int) -> Shard:
        """Return this process' part of a video of `num_frames` latent frames."""
        return WHOLE if self.video is None else VideoShard(self, num_frames)

    def agree(self, problems: Mapping[str, str]) -> dict[str, str]:
        """Return by name the problems that any of the processes found: what fails for one of them fails for all."""
        found: dict[str, str] = {}
        for theirs in [problems] if self.video is None else self.video.gather_objects(dict(problems)):
            found = theirs | found
        return found

    def collect(self, frames: np.ndarray | None, device: torch.device) -> np.ndarray | None:
        """Return the frames (B, F, H, W, 3) uint8 of all processes one after the other; each gives its part of F.

        Args:
            frames: those of this process, maybe an empty part; None if its pixels are not finite.

        Returns:
            None if the pixels of any process are not finite.
        """
        if self.video is None:
            return frames
        size = (_NOT_FINITE, 0, 0) if frames is None else (frames.shape[1], *frames.shape[2:4])
        sizes = [part.tolist() for part in self.video.gather(torch.tensor(size, device=device), "decode")]
        if frames is None or any(count == _NOT_FINITE for count, *_ in sizes):
            return None
        return np.concatenate(list(self._parts(frames, sizes, device)), axis=1)

    def _parts(self, frames: np.ndarray, sizes: Sequence[Sequence[int]], device: torch.device) -> list[np.ndarray]:
        parts = []
        for source, size in enumerate(sizes):
            if not size[0]:
                continue
            part: Tensor = torch.empty(len(frames), *size, 3, dtype=torch.uint8, device=device)
            if source == self.video.index:
                part.copy_(torch.from_numpy(frames))
            self.video.spread(part, source, "decode")
            parts.append(part.cpu().numpy())
        return parts


class ParallelModel:
    """Calls a model with this process' rows and frames, and puts the outputs of all processes together.

    The sampling loop uses it like the model: every process of the video calls it with the same arguments and gets the
    same result. Only as many output channels as the latents have are exchanged; others (a variance) are dropped.
    """

    def __init__(self, model: VideoModel, group: VideoGroup) -> None:
        self._model = model
        self._group = group
        self.config = model.config
        self.device = model.device
        self.dtype = model.dtype

    def __call__(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        x_mask: Tensor | None = None,
        **arguments: Any,
    ) -> Tensor:
        """Return the model's output (B, C, T, H, W) for latents `x` of that shape.

        If guidance is split, each half of the rows is one guidance branch.
        """
        guidance, traffic = self._group.guidance, self._group.traffic
        before = traffic.sent.copy()
        shard = VideoShard(self._group, x.shape[2])
        rows = slice(None) if guidance is None else even_parts(len(x), guidance.size)[guidance.index]
        if x_mask is not None:
            arguments["x_mask"] = x_mask[rows]
        if self._group.sequence is not None:
            arguments["sharding"] = shard
        # A mask with fewer rows is for one branch, and holds for the other, too.
        own_mask = mask[rows] if mask is not None and len(mask) == len(x) else mask
        output = self._model(x[rows], timestep[rows], y[rows], mask=own_mask, **arguments)
        whole = shard.whole(output[:, : x.shape[1]], 1 if guidance is None else guidance.size)
        traffic.end_call(before)
        return whole


class VideoShard(Shard, Sharding):
    """One process' part of a video of `num_frames` latent frames, for the cache and for the model.

    Attributes:
        frames: slice of the latent frames that this process has.
        half: index of the guidance half that it takes; None if it takes both.
    """

    def __init__(self, group: VideoGroup, num_frames: int) -> None:
        self._video = group.video
        self._sequence = sequence = group.sequence
        self.half = None if group.guidance is None else group.guidance.index
        self._frame_parts = even_parts(num_frames, sequence.size) if sequence else [slice(None)]
        self.frames = self._frame_parts[sequence.index if sequence else 0]
        self._num_frames = num_frames

    def sum(self, terms: Tensor) -> Tensor:
        return self._video.sum(terms, "schedule")

    def splits_frames(self, stream: Stream) -> bool:
        return self._sequence is not None and stream == "spatial"

    def all_frames(self, residual: Tensor) -> Tensor:
        """Turn some frames into all frames of some tokens; it sends half of what a pair of blocks does."""
        return self._to_tokens(residual, "schedule")

    def to_tokens(self, hidden_states: Tensor) -> Tensor:
        return self._to_tokens(hidden_states, "blocks")

    def _to_tokens(self, hidden_states: Tensor, purpose: Purpose) -> Tensor:
        if self._sequence is None:
            return hidden_states
        batch, _, tokens, channels = hidden_states.shape
        token_parts = even_parts(tokens, self._sequence.size)
        own = _length(token_parts[self._sequence.index])
        parts = [hidden_states[:, :, part] for part in token_parts]
        shapes = [(batch, _length(part), own, channels) for part in self._frame_parts]
        return torch.cat(self._sequence.exchange(parts, shapes, purpose), dim=1)

    def to_frames(self, hidden_states: Tensor, tokens_per_frame: int) -> Tensor:
        if self._sequence is None:
            return hidden_states
        batch, _, _, channels = hidden_states.shape
        token_parts = even_parts(tokens_per_frame, self._sequence.size)
        parts = [hidden_states[:, part] for part in self._frame_parts]
        shapes = [(batch, _length(self.frames), _length(part), channels) for part in token_parts]
        return torch.cat(self._sequence.exchange(parts, shapes, "blocks"), dim=2)

    def whole(self, output: Tensor, guidance: int) -> Tensor:
        """Gather the model's output for all frames and branches from this process' part (B, C, T of its frames, ...).

        Args:
            guidance: how many branches are on different processes.
        """
        lengths = [_length(part) for part in self._frame_parts] if self._sequence else [self._num_frames]
        missing = max(lengths) - output.shape[2]
        parts = self._video.gather(F.pad(output, (0, 0, 0, 0, 0, missing)), "output")  # guidance first, then frames
        count = len(lengths)
        branches = [
            torch.cat([part[:, :, :size] for part, size in zip(parts[i * count :], lengths, strict=False)], dim=2)
            for i in range(guidance)
        ]
        return torch.cat(branches)


def _length(part: slice) -> int:
    return part.stop - part.start
