"""What distinguishes the families of models: their autoencoders and schedulers, entries, lengths and sizes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from opensora.config.reading import Source
from opensora.config.schema import (
    CausalVAEConfig,
    DiffusionSchedulerConfig,
    ImageVAEConfig,
    SampleConfig,
    SchedulerConfig,
    VAEConfig,
    types_of,
)
from opensora.errors import ConfigError
from opensora.weights import local_config


@dataclass(frozen=True)
class ModelFamily:
    """What a configuration of one `model.type` may say.

    Attributes:
        name: the model, for messages.
        vae, scheduler: the dataclasses of the sections that go with it.
        refused: entries of a config that do not apply to it, with the reason; they must keep their defaults.
        depth_key: the entry of config.json with the number of pairs of a spatial and a temporal block.
        default_depth: that number if there is no config.json; None: not known.
        length_key: the entry of config.json with the only number of latent frames besides 1; None: any will do.
        has_durations: whether num_frames may be a duration such as "2s", one of Open-Sora's training.
        splits_frames: whether several processes can split the frames of a video.
        fixed_text_length: whether text_encoder.model_max_length has to equal the model's own.
    """

    name: str
    vae: type
    scheduler: type
    refused: Mapping[str, str] = field(default_factory=dict)
    depth_key: str = "depth"
    default_depth: int | None = None
    length_key: str | None = None
    has_durations: bool = True
    fixed_text_length: bool = True
    splits_frames: bool = True


_TEXT_ALONE = "it makes videos from text alone"
_NO_SCORES = "its captions carry no scores"
_DIFFUSERS_REFUSED = {
    "reference_path": _TEXT_ALONE,
    "mask_strategy": _TEXT_ALONE,
    "loop": "it cannot continue a clip",
    "compat": "it repeats mistakes of Open-Sora",
    "multi_resolution": "it is not told the size of a video",
    "aes": _NO_SCORES,
    "flow": _NO_SCORES,
    "camera_motion": "its captions do not mention it",
    "compile": "it is diffusers' own",
}
_OPEN_SORA = ModelFamily(
    name="Open-Sora",
    vae=VAEConfig,
    scheduler=SchedulerConfig,
    refused={"negative_prompt": "it guides away from an empty caption that it has learned"},
)
_LATTE = ModelFamily(
    name="Latte",
    vae=ImageVAEConfig,
    scheduler=DiffusionSchedulerConfig,
    refused=_DIFFUSERS_REFUSED,
    depth_key="num_layers",
    default_depth=28,
    length_key="video_length",
    has_durations=False,
    fixed_text_length=False,
    splits_frames=False,
)
_FAMILIES = {
    "STDiT3-XL/2": replace(_OPEN_SORA, default_depth=28),
    "STDiT3": _OPEN_SORA,
    "Latte": _LATTE,
    "LatteT2V": replace(_LATTE, name="Open-Sora-Plan", vae=CausalVAEConfig),
}
_PATCH_SIZE = 2  # latents per side of a token, where no config.json says otherwise
_PRK_STEPS = 4  # least steps of pndm: three Runge-Kutta steps of four calls each, and a linear multistep one
_TRAIN_STEPS = 1000  # diffusers' default
# Options that only some of diffusers' schedulers have.
_OWNERS = {"clip_sample": ("ddim", "heun"), "set_alpha_to_one": ("ddim", "pndm"), "skip_prk_steps": ("pndm",)}


def family_of(model_type: str) -> ModelFamily:
    """Return the family of a `model.type`."""
    return _FAMILIES[model_type]


def check_pieces(sections: Mapping[str, Any], source: Source) -> None:
    """Refuse an autoencoder or a scheduler that belongs to another model.

    Args:
        sections: the dataclasses of a config's sections by name.

    Raises:
        ConfigError: the types do not go together; the message names both, and those that would.
    """
    model = sections["model"]
    family = family_of(model.type)
    for name, wanted in (("vae", family.vae), ("scheduler", family.scheduler)):
        section = sections[name]
        if not isinstance(section, wanted):
            choices = " or ".join(f"'{choice}'" for choice in types_of(wanted))
            raise source.error(
                (f"{name}.type", "model.type"),
                f"{name}.type '{section.type}' cannot be used with model.type '{model.type}' ({family.name}); set it "
                f"to {choices}",
            )


def check_entries(config: SampleConfig, source: Source) -> None:
    """Refuse entries that do not apply to the model.

    Raises:
        ConfigError: an entry does not apply; the message names it, the model, and what to do.
    """
    fields = SampleConfig.__pydantic_fields__
    for name in family_of(config.model.type).refused:
        if getattr(config, name) != fields[name].default:
            try:
                refuse(config, name, fields[name].default)
            except ConfigError as error:
                raise source.error(name, str(error)) from error


def refuse(config: SampleConfig, name: str, default: Any = None) -> None:
    """Refuse the entry `name` if it does not apply to the model of `config`; `default` is what it should be.

    Raises:
        ConfigError: it does not apply; the message does not say where the entry was set.
    """
    family = family_of(config.model.type)
    if name in family.refused:
        raise ConfigError(
            f"{name} does not work with {family.name} (model.type '{config.model.type}'): {family.refused[name]}; "
            f"leave it out{'' if default is None else f', or set it to {default!r}'}"
        )


def model_depth(from_pretrained: str, model_type: str, weights_dir: str | os.PathLike[str] | None = None) -> int | None:
    """Return the number of spatial-temporal block pairs, if it is known without downloading or loading the model."""
    family = family_of(model_type)
    depth = local_config(from_pretrained, weights_dir).get(family.depth_key)
    return depth if isinstance(depth, int) else family.default_depth


def check_size_limits(config: SampleConfig, source: Source) -> None:
    """Refuse numbers of frames and pixels that a model of fixed length cannot make; 1 frame is an image.

    A cache that measures temporal attention is refused for images, which have none. If the checkpoint is not on this
    machine, its sizes are taken to be the published ones and its length is not checked.

    Raises:
        ConfigError: a number cannot be made; the message names it, and those that would do.
    """
    if family_of(config.model.type).length_key is not None:
        _check_num_frames(config, source)
        _check_sides(config, source)


def _check_num_frames(config: SampleConfig, source: Source) -> None:
    vae, frames = config.vae, config.num_frames
    latents = vae.latent_frames(frames)
    if vae.num_frames(latents) != frames:
        raise source.error(
            "num_frames",
            f"num_frames is {frames}, which a {vae.type} cannot make; the nearest are {vae.num_frames(latents)} and "
            f"{vae.num_frames(latents + 1)}",
        )
    length = _entries(config, "model").get(family_of(config.model.type).length_key)
    if latents == 1 and getattr(config.cache, "metric", None) == "t-attn":
        raise source.error(
            ("cache.metric", "num_frames"),
            "the cache measures temporal attention, which an image does not have; set cache.metric='s-attn', or "
            f"num_frames above {frames}",
        )
    if isinstance(length, int) and length > 0 and latents not in (1, length):
        raise source.error(
            ("num_frames", "model.from_pretrained"),
            f"num_frames is {frames}, but the transformer {config.model.from_pretrained} makes videos of "
            f"{vae.num_frames(length)} frames (or 1, an image); set it to that",
        )


def _check_sides(config: SampleConfig, source: Source) -> None:
    patch = _entries(config, "model").get("patch_size")
    pixels = config.vae.downsample(_entries(config, "vae")) * (patch if isinstance(patch, int) else _PATCH_SIZE)
    if config.height % pixels or config.width % pixels:
        raise source.error(
            ("height", "width", "model.from_pretrained"),
            f"the video is {config.height} x {config.width} pixels, but the transformer {config.model.from_pretrained} "
            f"needs sides that are multiples of {pixels}",
        )


def _entries(config: SampleConfig, section: str) -> dict:
    """Return the entries of a checkpoint's config.json; empty if it is not on this machine."""
    return local_config(getattr(config, section).from_pretrained, config.weights_dir)


def check_diffusion_options(scheduler: SchedulerConfig | DiffusionSchedulerConfig, source: Source) -> None:
    """Refuse options that the scheduler's type does not have, and numbers of steps that it cannot do.

    Raises:
        ConfigError: an entry cannot be used; the message names it.
    """
    if not isinstance(scheduler, DiffusionSchedulerConfig):
        return
    for name, owners in _OWNERS.items():
        if getattr(scheduler, name) is not None and scheduler.type not in owners:
            types = " and ".join(f"'{owner}'" for owner in owners)
            raise source.error(
                (f"scheduler.{name}", "scheduler.type"),
                f"scheduler.{name} is an option of {types}, not of '{scheduler.type}'; leave it out, or set it to None",
            )
    steps, most = scheduler.num_sampling_steps, scheduler.num_train_timesteps or _TRAIN_STEPS
    if steps > most:
        raise source.error(
            "scheduler.num_sampling_steps",
            f"scheduler.num_sampling_steps is {steps}, but the model was trained on {most} timesteps; set it to at "
            f"most {most}",
        )
    if scheduler.type == "pndm" and not scheduler.skip_prk_steps and steps < _PRK_STEPS:
        raise source.error(
            ("scheduler.num_sampling_steps", "scheduler.type"),
            f"scheduler.num_sampling_steps must be at least {_PRK_STEPS} with 'pndm', got {steps}; or set "
            "scheduler.skip_prk_steps=True",
        )
