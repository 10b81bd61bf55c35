"""Adaptive caching for video diffusion transformers: compute a denoising step, or reuse a residual.

A transformer changes its hidden states by *output - input*, its residual. Between neighboring denoising steps
that residual often hardly changes, and how much it changes depends on the video. A `StepController` measures
the change at a few branches of the model and looks up, in a `Codebook`, for how many steps the stored residual
may be reused. Nothing is kept on the model: the controller holds all state, for the length of one `run`.

To use it with your own transformer, mark two kinds of places. `stack` wraps all blocks of one forward pass,
`branch` wraps the residual branches that a metric may measure (temporal attention for the default metric
"t-attn"):

>>> import torch
>>> from adacache import AdaCacheConfig, Site, StepController
>>> blocks = [torch.nn.Linear(8, 8) for _ in range(3)]       # your transformer blocks
>>> controller = StepController(AdaCacheConfig(codebook="fast30", metric_blocks=(1,)))
>>> def run_blocks(hidden_states):                           # (B, N, C), N = frames * tokens_per_frame
...     for i, block in enumerate(blocks):
...         attention = lambda: block(hidden_states)
...         hidden_states = hidden_states + controller.branch(Site("temporal", i, "attn"), attention)
...     return hidden_states
>>> latents = torch.ones(1, 16, 8)
>>> with torch.no_grad(), controller.run(num_steps=30):
...     for i in range(30):
...         controller.begin_step(i, timestep=1000 * (1 - i / 30))
...         latents = latents - controller.stack(latents, run_blocks, tokens_per_frame=4) / 30
>>> controller.trace.computed_steps[:2], controller.trace.num_reused > 10
([0, 1], True)

Letters in shape comments: B batch (doubled when guidance is batched), N tokens (frame by frame), C channels.
Without a controller a model must behave exactly as if this package did not exist.

Source: Adaptive Caching for Faster Video Generation with Diffusion Transformers, arXiv:2411.02397.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from adacache.codebook import PRESETS, Codebook
from adacache.options import BridgeConfig
from adacache.policies.adacache import AdaCacheConfig, MoRegConfig
from adacache.sites import Site
from adacache.trace import StepRecord, Trace

if TYPE_CHECKING:
    from adacache.controller import RunObserver, StepController

__all__ = [
    "PRESETS",
    "AdaCacheConfig",
    "BridgeConfig",
    "Codebook",
    "MoRegConfig",
    "RunObserver",
    "Site",
    "StepController",
    "StepRecord",
    "Trace",
]


def __getattr__(name: str) -> object:
    # The controller imports torch, which takes over a second; a config error must not have to wait for it.
    if name in ("RunObserver", "StepController"):
        return getattr(import_module("adacache.controller"), name)
    raise AttributeError(f"module 'adacache' has no attribute {name!r}")
