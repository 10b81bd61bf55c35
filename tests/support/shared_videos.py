"""Videos that are sampled by one process, or by several together: shared_videos.py FOLDER, as torchrun starts it.

Each process writes what it got for every arrangement and case; tests compare that with what one process gets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adacache import AdaCacheConfig, Codebook, MoRegConfig, StepController
from adacache.policies.base import PolicyConfig
from adacache.policies.easycache import EasyCacheConfig
from adacache.policies.fbcache import FBCacheConfig
from adacache.policies.multistep import MultistepConfig
from adacache.policies.pab import PABConfig
from adacache.policies.seacache import SeaCacheConfig
from adacache.policies.teacache import TeaCacheConfig
from opensora.acceleration.launch import MeshShape
from opensora.acceleration.video_group import VideoGroup
from opensora.config.loading import load_config
from opensora.pipeline import SamplingPipeline
from tests.support import small_model

STEPS = 10
DEPTH = 2
MOREG = MoRegConfig(scale=0.15, power=1.5, gradient_weight=0, strides=(1, 2), window=(0.2, 0.9))
ADACACHE = AdaCacheConfig(codebook=Codebook((0.2, 0.5), (3, 2, 1)), metric_blocks=(1,))
# Frame by frame, and next to each other, tokens of this model differ more.
STRICT = replace(ADACACHE, codebook=Codebook((0.9, 1.8), (3, 2, 1)))
# The halves differ, so that a half with the other's coefficients would show.
MULTISTEP = MultistepConfig(
    (0, 1, 4, 7),
    10,
    coefficients=[((1.0,), (1.0,)), *[((1.3, -0.3), (1.1, -0.1))] * 2, ((1.3, -0.5, 0.2), (0.9, 0.2, -0.1))],
)
SEQUENCE, MIXED, GUIDANCE = MESHES = (MeshShape(1, 1, 4), MeshShape(1, 2, 2), MeshShape(2, 2, 1))


@dataclass(frozen=True)
class Case:
    """Two videos of latents (4, T, H, W).

    Attributes:
        given: by video, the strength of every frame's mask, see ``FrameMask``.
    """

    size: tuple[int, int, int] = (5, 8, 8)
    cache: PolicyConfig | None = ADACACHE
    lengths: Sequence[int] = (5, 12)
    given: Sequence[Sequence[float]] | None = None


GIVEN = ((0.0, 1.0, 1.0, 1.0, 1.0), (0.5, 0.5, 1.0, 1.0, 1.0))
CASES: dict[str, Case] = {
    "plain": Case(cache=None),
    "moreg": Case(cache=replace(ADACACHE, moreg=MOREG)),
    "spatial metric and moreg": Case(cache=replace(STRICT, metric="s-attn", moreg=MOREG)),
    "both streams": Case(cache=replace(STRICT, metric="ca-mlp", moreg=MOREG)),
    "several blocks": Case(cache=replace(ADACACHE, metric_blocks=(0, 1), moreg=MOREG)),
    "one schedule": Case(cache=replace(ADACACHE, schedule="batch")),
    "fitted bridge": Case(cache=replace(ADACACHE, bridge="fitted")),
    "teacache": Case(cache=TeaCacheConfig((1.0, 0.0), threshold=0.3)),
    "fbcache": Case(cache=FBCacheConfig(threshold=0.2)),
    "easycache": Case(cache=EasyCacheConfig(threshold=0.8, warmup=2)),
    "seacache": Case(cache=SeaCacheConfig(threshold=0.6)),
    "pab": Case(cache=PABConfig(mlp_blocks=(0, 1))),
    "multistep": Case(cache=MULTISTEP),
    "odd sides": Case((3, 7, 9), replace(ADACACHE, moreg=MOREG), (12, 12)),
    "more frames": Case((6, 6, 10), lengths=(1, 3)),
    "an image": Case((1, 8, 8), replace(ADACACHE, metric="s-attn")),
    "given frames, plain": Case(cache=None, given=GIVEN),
    "given frames": Case(cache=replace(ADACACHE, moreg=MOREG), given=GIVEN),
    "given frames, spatial metric": Case(cache=replace(STRICT, metric="s-attn", moreg=MOREG), given=GIVEN),
    "given frames, fitted bridge": Case(cache=replace(ADACACHE, bridge="fitted"), given=GIVEN),
    "given frames, easycache": Case(cache=EasyCacheConfig(threshold=0.2, warmup=2), given=GIVEN),
    "given frames, seacache": Case(cache=SeaCacheConfig(threshold=0.6), given=GIVEN),
}
# Every case in the arrangement that has both, in the others what their own exchanges can break.
CASES_OF = {
    SEQUENCE: ("plain", "one schedule", "multistep", "odd sides", "given frames, spatial metric"),
    MIXED: tuple(CASES),
    GUIDANCE: ("plain", "moreg", "one schedule", "multistep"),
}
PAIRS = [(shape, name) for shape, names in CASES_OF.items() for name in names]
# Frames, and latents of a tile, None for no tiles.
DECODING = (SEQUENCE, GUIDANCE)  # four processes of a video, and two
DECODED = ((34, None), (20, 2), (1, None))


class Text:
    """Features of captions of given lengths; the unconditional half is the model's own."""

    def __init__(self, model: Any, lengths: Sequence[int]) -> None:
        self._null = model.y_embedder.y_embedding
        generator = torch.Generator().manual_seed(3)
        size = (len(lengths), 1, len(self._null), self._null.shape[1])
        self._y = torch.randn(size, generator=generator)
        self._mask = torch.arange(len(self._null))[None] < torch.tensor(lengths)[:, None]

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"y": self._y, "mask": self._mask.long()}

    def null(self, n: int) -> Tensor:
        return self._null[None, None].expand(n, -1, -1, -1)


def load() -> SamplingPipeline:
    """The first half of the small model's blocks, in float32."""
    torch.set_num_threads(1)
    pipe = SamplingPipeline.from_config(
        load_config(small_model.SAMPLE, {"verbose": 0}, {"scheduler.num_sampling_steps": STEPS})
    )
    model = pipe.model
    model.spatial_blocks, model.temporal_blocks = model.spatial_blocks[:DEPTH], model.temporal_blocks[:DEPTH]
    model.config = replace(model.config, depth=DEPTH)
    return pipe


@torch.no_grad()
def sample(pipe: SamplingPipeline, case: Case, group: VideoGroup) -> dict[str, Any]:
    """Latents of a case's videos, and what their schedules were."""
    frames, height, width = case.size
    noise = [torch.randn(4, *case.size, generator=torch.Generator().manual_seed(video)) for video in range(2)]
    z = torch.stack(noise)
    mask = None if case.given is None else torch.tensor(case.given)
    if mask is not None:
        z = torch.where((mask == 1)[:, None, :, None, None], z, 0.5 * z)
    controller = None if case.cache is None else StepController(case.cache, group.shard(frames))
    size = {"height": 8.0 * height, "width": 8.0 * width, "num_frames": 3.0 * frames, "fps": 8.0}
    group.traffic.calls.clear()
    latents = pipe.scheduler.sample(
        group.model(pipe.model),
        Text(pipe.model, case.lengths),
        z,
        ["", ""],
        pipe.model.device,
        additional_args={name: torch.full((2,), value) for name, value in size.items()},
        mask=mask,
        progress=False,
        controller=controller,
        generator=[torch.Generator().manual_seed(10 + video) for video in range(2)],
    )
    traces = [] if controller is None else controller.traces
    return {
        "latents": latents,
        "computed": [trace.computed_steps for trace in traces],
        "records": [
            [(record.distance, record.motion_score, record.value, record.bridge_weight) for record in trace.records]
            for trace in traces
        ],
        "calls": list(group.traffic.calls),
    }


def decode(pipe: SamplingPipeline, num_frames: int, tile_size: int | None, group: VideoGroup) -> np.ndarray:
    """The frames of random latents."""
    from opensora.models.vae.layerwise import TilingConfig

    frames = pipe.vae.latent_frames(num_frames)
    latents = torch.randn(2, 4, frames, 4, 4, generator=torch.Generator().manual_seed(num_frames))
    pipe.vae.tiling = None if tile_size is None else TilingConfig(tile_size)
    config = replace(pipe.config, num_frames=num_frames)
    own = SamplingPipeline(pipe.model, pipe.vae, pipe.text_encoder, pipe.scheduler, config, None, group)
    return np.stack(own.decode(latents, progress=False))


def main() -> None:
    from opensora.acceleration.launch import read_launch
    from opensora.acceleration.processes import Processes

    folder, launch = Path(sys.argv[1]), read_launch()
    processes, pipe, results = Processes(launch), load(), {}
    for shape in MESHES:
        group = processes.arrange(shape)
        for name in CASES_OF[shape]:
            results[str(shape), name] = sample(pipe, CASES[name], group)
        for num_frames, tile_size in DECODED if shape in DECODING else ():
            results[str(shape), "decoded", num_frames] = decode(pipe, num_frames, tile_size, group)
    torch.save(results, folder / f"rank{launch.rank}.pt")
    processes.close()


if __name__ == "__main__":
    main()
