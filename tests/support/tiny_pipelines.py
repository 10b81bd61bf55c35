"""Pipelines of diffusers with tiny random models: the real classes, in a second on a CPU, without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch
from PIL import Image
from torch import Tensor, nn

from tests.support.tiny_latte import randomize

TEXT_TOKENS, TEXT_WIDTH, POOLED_WIDTH = 6, 16, 8


@dataclass(frozen=True)
class TinyPipeline:
    """How to build a pipeline and what to call it with.

    Attributes:
        lists: names of the transformer's lists of blocks.
        call: arguments of the pipeline beside its text.
        masks, pooled: whether text comes with masks, or with a pooled vector.
        calls_per_step: of the transformer.
    """

    build: Callable[[], Any]
    lists: tuple[str, ...]
    call: dict[str, Any]
    masks: bool = False
    pooled: bool = False
    calls_per_step: int = 1

    def run(self, pipe: Any, seed: int = 0, steps: int = 6, batch: int = 1, **changes: Any) -> Tensor:
        """Final latents of `batch` videos with seeds that count up; no video depends on the others."""
        return pipe(**{**self.arguments(seed, steps, batch), **changes}).frames

    def arguments(self, seed: int = 0, steps: int = 6, batch: int = 1) -> dict[str, Any]:
        """Those of the pipeline's call."""
        seeds = range(seed, seed + batch)
        text = {f"{half}prompt_embeds": self._text(seeds, offset) for half, offset in (("", 0), ("negative_", 1000))}
        if self.masks:
            for half in ("", "negative_"):
                text[f"{half}prompt_attention_mask"] = torch.ones(batch, TEXT_TOKENS, dtype=torch.long)
        if self.pooled:
            for half, offset in (("", 2000), ("negative_", 3000)):
                text[f"{half}pooled_prompt_embeds"] = torch.stack([_noise(s + offset, POOLED_WIDTH) for s in seeds])
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        return {**self.call, **text, "num_inference_steps": steps, "generator": generators, "output_type": "latent"}

    def _text(self, seeds: range, offset: int) -> Tensor:
        return torch.stack([_noise(seed + offset, TEXT_TOKENS, TEXT_WIDTH) for seed in seeds])


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _finished(pipe: Any) -> Any:
    """A pipeline without progress bars, in evaluation mode."""
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            component.eval().requires_grad_(False)
    return pipe


def latte() -> diffusers.LattePipeline:
    """Latte with DDIM."""
    transformer = diffusers.LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=4,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=TEXT_WIDTH,
        video_length=5,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
    )
    scheduler = diffusers.DDIMScheduler(beta_start=1e-4, beta_end=2e-2, clip_sample=False)
    return _finished(diffusers.LattePipeline(None, None, randomize(vae), randomize(transformer), scheduler))


def cogvideox() -> diffusers.CogVideoXPipeline:
    """CogVideoX 1.0; its 1.5 also cuts time into patches."""
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=TEXT_WIDTH,
        num_layers=4,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=TEXT_TOKENS,
        use_rotary_positional_embeddings=True,
    )
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=64,
        sample_width=64,
    )
    scheduler = diffusers.CogVideoXDDIMScheduler()
    return _finished(diffusers.CogVideoXPipeline(None, None, randomize(vae), randomize(transformer), scheduler))


def _wan_transformer(seed: int, cls: type = diffusers.WanTransformer3DModel) -> Any:
    transformer = cls(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=TEXT_WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=4,
        rope_max_seq_len=32,
    )
    return randomize(transformer, seed)


def _wan_vae() -> diffusers.AutoencoderKLWan:
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return randomize(vae)


def wan() -> diffusers.WanPipeline:
    """Wan 2.1."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return _finished(diffusers.WanPipeline(None, None, _wan_vae(), scheduler, _wan_transformer(0)))


def skyreels_v2() -> diffusers.SkyReelsV2Pipeline:
    """SkyReels-V2, whose scheduler looks back."""
    scheduler = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    transformer = _wan_transformer(0, diffusers.SkyReelsV2Transformer3DModel)
    return _finished(diffusers.SkyReelsV2Pipeline(None, None, transformer, _wan_vae(), scheduler))


def sana_video() -> diffusers.SanaVideoPipeline:
    """SANA-Video."""
    transformer = diffusers.SanaVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=TEXT_WIDTH,
        rope_max_seq_len=32,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return _finished(diffusers.SanaVideoPipeline(None, None, _wan_vae(), randomize(transformer), scheduler))


def wan22() -> diffusers.WanPipeline:
    """Wan 2.2: one transformer for much noise, another one for little."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return _finished(
        diffusers.WanPipeline(
            None, None, _wan_vae(), scheduler, _wan_transformer(0), _wan_transformer(1), boundary_ratio=0.8
        )
    )


def ltx() -> diffusers.LTXPipeline:
    """LTX-Video."""
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=4,
        caption_channels=TEXT_WIDTH,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return _finished(diffusers.LTXPipeline(scheduler, randomize(vae), None, None, randomize(transformer)))


def hunyuan_video() -> diffusers.HunyuanVideoPipeline:
    """HunyuanVideo: blocks of two streams, then of one."""
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=3,
        num_single_layers=2,
        num_refiner_layers=1,
        patch_size=2,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        rope_axes_dim=(2, 4, 4),
    )
    vae = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0)
    return _finished(
        diffusers.HunyuanVideoPipeline(None, None, randomize(transformer), randomize(vae), scheduler, None, None)
    )


def mochi() -> diffusers.MochiPipeline:
    """Mochi 1."""
    transformer = diffusers.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=4,
        pooled_projection_dim=8,
        in_channels=12,
        text_embed_dim=TEXT_WIDTH,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    vae = diffusers.AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return _finished(diffusers.MochiPipeline(scheduler, randomize(vae), None, None, randomize(transformer)))


def allegro() -> diffusers.AllegroPipeline:
    """Allegro."""
    transformer = diffusers.AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=TEXT_WIDTH,
    )
    vae = diffusers.AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2, sample_size=16
    )
    scheduler = diffusers.EulerAncestralDiscreteScheduler()
    return _finished(diffusers.AllegroPipeline(None, None, randomize(vae), randomize(transformer), scheduler))


_SMALL = {"height": 64, "width": 64}
TINY = {
    "latte": TinyPipeline(
        latte,
        ("transformer_blocks", "temporal_transformer_blocks"),
        {**_SMALL, "video_length": 5, "guidance_scale": 5.0, "negative_prompt": None},
    ),
    "cogvideox": TinyPipeline(
        cogvideox, ("transformer_blocks",), {**_SMALL, "num_frames": 9, "guidance_scale": 5.0, "max_sequence_length": 6}
    ),
    "wan": TinyPipeline(wan, ("blocks",), {**_SMALL, "num_frames": 9, "guidance_scale": 4.0}, calls_per_step=2),
    "wan22": TinyPipeline(wan22, ("blocks",), {**_SMALL, "num_frames": 9, "guidance_scale": 4.0}, calls_per_step=2),
    "sana_video": TinyPipeline(
        sana_video,
        ("transformer_blocks",),
        {**_SMALL, "frames": 9, "guidance_scale": 4.0, "negative_prompt": None, "use_resolution_binning": False},
        masks=True,
    ),
    "skyreels_v2": TinyPipeline(
        skyreels_v2, ("blocks",), {**_SMALL, "num_frames": 9, "guidance_scale": 4.0}, calls_per_step=2
    ),
    "ltx": TinyPipeline(ltx, ("transformer_blocks",), {**_SMALL, "num_frames": 9, "guidance_scale": 3.0}, masks=True),
    "hunyuan_video": TinyPipeline(
        hunyuan_video,
        ("transformer_blocks", "single_transformer_blocks"),
        {**_SMALL, "num_frames": 9, "guidance_scale": 4.0, "true_cfg_scale": 2.0},
        masks=True,
        pooled=True,
        calls_per_step=2,
    ),
    "mochi": TinyPipeline(
        mochi, ("transformer_blocks",), {**_SMALL, "num_frames": 13, "guidance_scale": 4.0}, masks=True
    ),
    "allegro": TinyPipeline(
        allegro,
        ("transformer_blocks",),
        {**_SMALL, "num_frames": 8, "guidance_scale": 5.0, "negative_prompt": None},
        masks=True,
    ),
}


def _rebuilt(transformer: Any, **changes: Any) -> Any:
    """A transformer of the same class with other options."""
    options = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
    return randomize(type(transformer)(**{**options, **changes}))


def cogvideox_image() -> diffusers.CogVideoXImageToVideoPipeline:
    """The latents of an image are further channels."""
    pipe = cogvideox()
    transformer = _rebuilt(pipe.transformer, in_channels=8)
    return _finished(diffusers.CogVideoXImageToVideoPipeline(None, None, pipe.vae, transformer, pipe.scheduler))


def cogvideox_video() -> diffusers.CogVideoXVideoToVideoPipeline:
    """A noised video is denoised."""
    pipe = cogvideox()
    return _finished(diffusers.CogVideoXVideoToVideoPipeline(None, None, pipe.vae, pipe.transformer, pipe.scheduler))


def wan_image(**options: Any) -> diffusers.WanImageToVideoPipeline:
    """The latents of an image, and a mask, are further channels."""
    pipe = wan()
    transformer = _rebuilt(pipe.transformer, in_channels=12)
    return _finished(
        diffusers.WanImageToVideoPipeline(None, None, pipe.vae, pipe.scheduler, transformer=transformer, **options)
    )


def wan_tokens() -> diffusers.WanImageToVideoPipeline:
    """Wan 2.2 TI2V: the tokens of the image have a time of their own."""
    pipe = wan()
    return _finished(
        diffusers.WanImageToVideoPipeline(
            None, None, pipe.vae, pipe.scheduler, transformer=pipe.transformer, expand_timesteps=True
        )
    )


def skyreels_v2_image() -> diffusers.SkyReelsV2ImageToVideoPipeline:
    """The latents of an image, and a mask, are further channels, and its features come before the text's."""
    pipe = skyreels_v2()
    transformer = _rebuilt(pipe.transformer, in_channels=12, image_dim=8)
    pipe = diffusers.SkyReelsV2ImageToVideoPipeline(None, None, None, None, transformer, pipe.vae, pipe.scheduler)
    pipe.encode_image = lambda image, device: _noise(7, 1, 5, 8)
    return _finished(pipe)


def wan_video() -> diffusers.WanVideoToVideoPipeline:
    """Calls both guidance halves without naming them."""
    pipe = wan()
    return _finished(diffusers.WanVideoToVideoPipeline(None, None, pipe.transformer, pipe.vae, pipe.scheduler))


def ltx_condition() -> diffusers.LTXConditionPipeline:
    """Tokens of conditions stand before those of the video."""
    pipe = ltx()
    return _finished(diffusers.LTXConditionPipeline(pipe.scheduler, pipe.vae, None, None, pipe.transformer))


def ltx_image() -> diffusers.LTXImageToVideoPipeline:
    """The tokens of the image have a time of their own."""
    pipe = ltx()
    return _finished(diffusers.LTXImageToVideoPipeline(pipe.scheduler, pipe.vae, None, None, pipe.transformer))


def hunyuan_image() -> diffusers.HunyuanVideoImageToVideoPipeline:
    """Calls both guidance halves without naming them; the latents of an image, and a mask, are further channels."""
    pipe = hunyuan_video()
    transformer = _rebuilt(pipe.transformer, in_channels=9, image_condition_type="latent_concat")
    return _finished(
        diffusers.HunyuanVideoImageToVideoPipeline(None, None, transformer, pipe.vae, pipe.scheduler, None, None, None)
    )


def skyreels_image() -> diffusers.HunyuanSkyreelsImageToVideoPipeline:
    """Calls both guidance halves without naming them; the latents of an image are further channels."""
    pipe = hunyuan_video()
    transformer = _rebuilt(pipe.transformer, in_channels=8)
    return _finished(
        diffusers.HunyuanSkyreelsImageToVideoPipeline(None, None, transformer, pipe.vae, pipe.scheduler, None, None)
    )


_IMAGE = Image.new("RGB", (64, 64), (200, 30, 60))
_VIDEO = [Image.new("RGB", (64, 64), (20 * number, 30, 60)) for number in range(9)]


def _other(family: str, build: Callable[[], Any], leave_out: str = "", **call: Any) -> TinyPipeline:
    """Another pipeline around the transformer of a family."""
    own = {name: value for name, value in TINY[family].call.items() if name != leave_out}
    return replace(TINY[family], build=build, call={**own, **call})


OTHERS = {
    "cogvideox_image": _other("cogvideox", cogvideox_image, image=_IMAGE),
    "cogvideox_video": _other("cogvideox", cogvideox_video, "num_frames", video=_VIDEO, strength=1.0),
    "wan_image": _other("wan", wan_image, image=_IMAGE),
    "skyreels_v2_image": _other("skyreels_v2", skyreels_v2_image, image=_IMAGE),
    "wan_tokens": _other("wan", wan_tokens, image=_IMAGE),
    "wan_video": _other("wan", wan_video, "num_frames", video=_VIDEO, strength=1.0),
    "ltx_condition": _other("ltx", ltx_condition, image=_IMAGE, frame_index=8, num_frames=17),
    "ltx_image": _other("ltx", ltx_image, image=_IMAGE),
    "hunyuan_image": _other("hunyuan_video", hunyuan_image, image=_IMAGE),
    "skyreels_image": _other("hunyuan_video", skyreels_image, image=_IMAGE),
}
