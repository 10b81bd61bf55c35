"""What the cache itself costs, counted at the sizes of published models; nothing is computed.

`docs/diffusers.md` shows the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    HunyuanVideoTransformer3DModel,
    LatteTransformer3DModel,
    LTXVideoTransformer3DModel,
    MochiTransformer3DModel,
    WanTransformer3DModel,
)
from torch import nn
from torch.fx.experimental import _config
from torch.utils.flop_counter import FlopCounterMode

from adacache import AdaCacheConfig, StepController
from adacache.integrations.diffusers.forward import CachedForward
from adacache.memory import estimate_cache_bytes
from adacache.policies.static import StaticScheduleConfig

DOC = Path(__file__).resolve().parents[3] / "docs/diffusers.md"


@dataclass(frozen=True, eq=False)
class Model:
    """A published model and a video of the size that it is used for.

    Attributes:
        transformer: Makes it, of given depths.
        depths: Of its lists of blocks, by the names of the transformer's options.
        latents: Of one call, with both guidance halves where they are in one batch.
        text: Tokens.
        arguments: Others of the forward.
        num_calls: Of a step.
    """

    name: str
    size: str
    transformer: Callable[..., nn.Module]
    depths: Mapping[str, int]
    latents: tuple[int, ...]
    text: int
    arguments: Callable[[], dict[str, Any]] = dict
    num_calls: int = 1

    def call(self) -> dict[str, Any]:
        latents, text = torch.empty(self.latents), torch.empty(self.latents[0], self.text, 4096)
        timestep = torch.empty(len(latents))
        return {"hidden_states": latents, "timestep": timestep, "encoder_hidden_states": text, **self.arguments()}


latte = partial(
    LatteTransformer3DModel,
    num_attention_heads=16,
    attention_head_dim=72,
    in_channels=4,
    out_channels=8,
    cross_attention_dim=1152,
    attention_bias=True,
    sample_size=64,
    patch_size=2,
    activation_fn="gelu-approximate",
    num_embeds_ada_norm=1000,
    norm_type="ada_norm_single",
    norm_elementwise_affine=False,
    norm_eps=1e-6,
    caption_channels=4096,
    video_length=16,
)
wan_1b = partial(WanTransformer3DModel, num_attention_heads=12, attention_head_dim=128, ffn_dim=8960)
cogvideox_5b = partial(CogVideoXTransformer3DModel, num_attention_heads=48, use_rotary_positional_embeddings=True)
ltx_13b = partial(LTXVideoTransformer3DModel, attention_head_dim=128, cross_attention_dim=4096)


def mochi(**depths: int) -> nn.Module:
    """Places of tokens without the autocast that meta tensors do not know."""
    transformer = MochiTransformer3DModel(**depths)
    transformer.rope._create_rope = lambda freqs, places: 2 * (torch.einsum("nd,dhf->nhf", places, freqs),)
    return transformer


def rotary() -> dict[str, Any]:
    return {"image_rotary_emb": (torch.empty(13 * 30 * 45, 64), torch.empty(13 * 30 * 45, 64))}


def of_ltx() -> dict[str, Any]:
    return {"encoder_attention_mask": torch.empty(2, 128), "num_frames": 16, "height": 22, "width": 38}


def of_hunyuan() -> dict[str, Any]:
    mask, pooled = torch.empty(1, 256, dtype=torch.long), torch.empty(1, 768)
    return {"encoder_attention_mask": mask, "pooled_projections": pooled, "guidance": torch.empty(1)}


def of_mochi() -> dict[str, Any]:
    return {"encoder_attention_mask": torch.empty(2, 256, dtype=torch.bool)}


HUNYUAN = {"num_layers": 20, "num_single_layers": 40}
WAN, COGVIDEOX = WanTransformer3DModel, CogVideoXTransformer3DModel
MODELS = (
    Model("Latte-1", "16 x 512 x 512", latte, {"num_layers": 28}, (2, 4, 16, 64, 64), 120),
    Model("Wan 2.1 1.3B", "81 x 480 x 832", wan_1b, {"num_layers": 30}, (1, 16, 21, 60, 104), 512, num_calls=2),
    Model("Wan 2.2 A14B", "81 x 720 x 1280", WAN, {"num_layers": 40}, (1, 16, 21, 90, 160), 512, num_calls=2),
    Model("CogVideoX-2B", "49 x 480 x 720", COGVIDEOX, {"num_layers": 30}, (2, 13, 16, 60, 90), 226),
    Model("CogVideoX-5B", "49 x 480 x 720", cogvideox_5b, {"num_layers": 42}, (2, 13, 16, 60, 90), 226, rotary),
    Model("LTX-Video 13B", "121 x 704 x 1216", ltx_13b, {"num_layers": 48}, (2, 16 * 22 * 38, 128), 128, of_ltx),
    Model("Mochi 1", "163 x 480 x 848", mochi, {"num_layers": 48}, (2, 12, 28, 60, 106), 256, of_mochi),
    Model(
        *("HunyuanVideo", "129 x 720 x 1280", HunyuanVideoTransformer3DModel, HUNYUAN),
        *((1, 16, 33, 90, 160), 256, of_hunyuan),
    ),
)


@dataclass(frozen=True)
class Cost:
    """What a transformer has, and what its calls take.

    Attributes:
        parameters: Of the transformer.
        plain, computed, reused: Operations of a call without the cache, and of one whose blocks are computed or reused.
        elements: Of the residual of all blocks.
    """

    parameters: int
    plain: int
    computed: int
    reused: int
    elements: int


@cache
def count(model: Model, depths: tuple[int, ...]) -> Cost:
    # Without data, masks hide nothing.
    masks = _config.patch(meta_nonzero_assume_all_nonzero=True)
    with torch.device("meta"), torch.no_grad(), masks:
        transformer = model.transformer(**dict(zip(model.depths, depths, strict=True)))
        arguments = model.call()
        with FlopCounterMode(display=False) as plain:
            transformer(**arguments)
        cached = CachedForward(transformer)
        controller = StepController(StaticScheduleConfig((0,)))
        steps = []
        with controller.run(num_steps=2):
            for step in range(2):
                controller.begin_step(step)
                with FlopCounterMode(display=False) as counted:
                    cached(controller, transformer.forward, "default", arguments)
                steps.append(counted.get_total_flops())
            elements = controller.nbytes // torch.float32.itemsize
    parameters = sum(parameter.numel() for parameter in transformer.parameters())
    return Cost(parameters, plain.get_total_flops(), *steps, elements)


def extrapolated(model: Model, depths: tuple[int, ...]) -> Cost:
    """The blocks of a list are alike: each adds as much as the second one does."""
    shallow = (1,) * len(depths)
    one = total = astuple(count(model, shallow))
    for index, depth in enumerate(depths):
        two = astuple(count(model, (*shallow[:index], 2, *shallow[index + 1 :])))
        total = [value + (depth - 1) * (b - a) for value, a, b in zip(total, one, two, strict=True)]
    return Cost(*total)


def cost_of(model: Model) -> Cost:
    return extrapolated(model, tuple(model.depths.values()))


def bytes_held(model: Model) -> int:
    """At most, in bfloat16, measured in one block and with the bridge "hold"."""
    config = AdaCacheConfig(codebook="fast30", metric_blocks=(0,))
    return estimate_cache_bytes(config, 30, cost_of(model).elements, "bf16", num_contexts=model.num_calls).total


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_computed_step_costs_no_more_than_a_plain_one_and_a_reused_one_nothing(model):
    cost = cost_of(model)
    assert 1 <= cost.computed / cost.plain < 1.0002
    assert cost.reused < 1e-3 * cost.plain


def test_blocks_that_are_alike_cost_what_they_cost_one_by_one():
    assert extrapolated(MODELS[-1], (2, 2)) == count(MODELS[-1], (2, 2))


def table() -> str:
    """What `docs/diffusers.md` says."""
    lines = [
        "| model | video | parameters | a computed step adds | a reused step takes | memory held |",
        "|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        cost = cost_of(model)
        lines.append(
            f"| {model.name} | {model.size} | {cost.parameters / 1e9:.1f} B | "
            f"{100 * (cost.computed / cost.plain - 1):.3f} % | {100 * cost.reused / cost.plain:.3f} % | "
            f"{bytes_held(model) / 1e9:.2f} GB |"
        )
    return "\n".join(lines)


def test_the_documentation_shows_the_table():
    assert table() in DOC.read_text(), table()
