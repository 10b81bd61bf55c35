"""A model whose forward passes several processes share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from opensora.acceleration.channel import Channel
from opensora.acceleration.shard import VideoShard
from opensora.models.parts import even_parts
from opensora.protocols import VideoModel


class ParallelModel:
    """Calls a model with this process' part of the batch and the frames, and puts the parts of all together.

    To the sampling loop it is the model: every process of the video calls it with the same arguments, and gets the same
    result. Only the channels of the latents are exchanged, so those that a sampler does not use (a variance) are gone.

    Args:
        guidance: the processes that take one guidance branch each, and the index of this one's; None where one process
            takes both.
        sequence: the processes that split the frames; None where none do.
        video: all of them.
    """

    def __init__(self, model: VideoModel, guidance: Channel | None, sequence: Channel | None, video: Channel) -> None:
        self._model = model
        self._guidance = guidance
        self._sequence = sequence
        self._video = video
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
        """(B, C, T, H, W) for latents ``x`` of that shape, as the model's ``forward``; its first half of rows are those
        of one guidance branch.
        """
        before = self._video.traffic.sent.copy()
        shard = VideoShard(self._sequence, self._video, x.shape[2])
        rows = self._rows(len(x))
        if x_mask is not None:
            arguments["x_mask"] = x_mask[rows]
        if self._sequence is not None:
            arguments["sharding"] = shard
        # A mask with fewer rows has those of one branch, which are those of the other, too.
        own_mask = mask[rows] if mask is not None and len(mask) == len(x) else mask
        output = self._model(x[rows], timestep[rows], y[rows], mask=own_mask, **arguments)
        whole = shard.whole(output[:, : x.shape[1]], 1 if self._guidance is None else self._guidance.size)
        self._video.traffic.end_call(before)
        return whole

    def _rows(self, count: int) -> slice:
        if self._guidance is None:
            return slice(None)
        return even_parts(count, self._guidance.size)[self._guidance.index]
