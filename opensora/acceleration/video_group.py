"""The processes that share a video: what each contributes to its latents and its frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from adacache.shard import WHOLE, Shard
from opensora.acceleration.channel import Channel, Traffic
from opensora.acceleration.mesh import MeshShape
from opensora.acceleration.parallel_model import ParallelModel
from opensora.acceleration.shard import VideoShard
from opensora.protocols import VideoModel

_NOT_FINITE = -1  # instead of a number of frames


@dataclass(frozen=True)
class VideoGroup:
    """This process among those that share its videos.

    Attributes:
        shape: the arrangement of all processes.
        index: of the group, among those that make videos of their own.
        guidance: the processes with the other guidance branch of the same frames; None where one takes both.
        sequence: those with the other frames of the same branch; None where the frames are not split.
        video: all of them; None where this process makes its videos alone.
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
        """This process' number and the number of them all, for work that is cut in as many parts."""
        return (0, 1) if self.video is None else (self.video.index, self.video.size)

    def model(self, model: VideoModel) -> VideoModel | ParallelModel:
        """``model``, with its forward passes shared."""
        return model if self.video is None else ParallelModel(model, self.guidance, self.sequence, self.video)

    def shard(self, num_frames: int) -> Shard:
        """What this process has of a video of so many latent frames."""
        half = None if self.guidance is None else self.guidance.index
        return WHOLE if self.video is None else VideoShard(self.sequence, self.video, num_frames, half)

    def agree(self, problems: Mapping[str, str]) -> dict[str, str]:
        """Problems that any of the processes found, under their names: what fails for one of them fails for all."""
        found: dict[str, str] = {}
        for theirs in [problems] if self.video is None else self.video.gather_objects(dict(problems)):
            found = theirs | found
        return found

    def collect(self, frames: np.ndarray | None, device: torch.device) -> np.ndarray | None:
        """All processes' frames (B, F, H, W, 3) uint8 one after the other, each giving its own part of F.

        Args:
            frames: this process' own, which may be none; None where its pixels are no numbers.

        Returns:
            None where that is so for any of them.
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
