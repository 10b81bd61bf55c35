"""What distinguishes the models that can be sampled, as data: one description for every ``model.type``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from opensora.config.sections import (
    CausalVAEConfig,
    DiffusionSchedulerConfig,
    ImageVAEConfig,
    SchedulerConfig,
    VAEConfig,
    types_of,
)
from opensora.errors import ConfigError
from opensora.weights import local_config

if TYPE_CHECKING:
    from opensora.config.reading import Source
    from opensora.config.schema import SampleConfig


@dataclass(frozen=True)
class ModelKind:
    """What a configuration of one ``model.type`` may say.

    Attributes:
        name: the model, for messages.
        vae, scheduler: the dataclasses of the sections that go with it.
        refused: entries of a config that mean nothing to it, with the reason; they keep their defaults.
        depth_key: the entry of config.json with the number of pairs of a spatial and a temporal block.
        default_depth: that number without config.json; None: not known.
        length_key: the entry of config.json with the only number of latent frames beside 1; None: any will do.
        has_durations: whether a number of frames may be a duration such as "2s", in the steps of Open-Sora's training.
        splits_frames: whether several processes can split the frames of a video.
        fixed_text_length: whether text_encoder.model_max_length has to be the model's own.
    """

    name: str
    vae: type
    scheduler: type
    refused: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    depth_key: str = "depth"
    default_depth: int | None = None
    length_key: str | None = None
    has_durations: bool = True
    fixed_text_length: bool = True
    splits_frames: bool = True


_TEXT_ALONE = "it makes videos from text alone"
_NO_SCORES = "its captions carry no scores"
_DIFFUSERS_REFUSED = MappingProxyType(
    {
        "reference_path": _TEXT_ALONE,
        "mask_strategy": _TEXT_ALONE,
        "loop": "it cannot continue a clip",
        "compat": "it repeats mistakes of Open-Sora",
        "multi_resolution": "it is not told the size of a video",
        "aes": _NO_SCORES,
        "flow": _NO_SCORES,
        "camera_motion": "its captions do not tell of it",
        "compile": "it is diffusers' own",
    }
)
_OPEN_SORA = ModelKind(
    name="Open-Sora",
    vae=VAEConfig,
    scheduler=SchedulerConfig,
    refused=MappingProxyType({"negative_prompt": "it has learned an empty caption, from which it guides away"}),
)
_LATTE = ModelKind(
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
_KINDS = {
    "STDiT3-XL/2": replace(_OPEN_SORA, default_depth=28),
    "STDiT3": _OPEN_SORA,
    "Latte": _LATTE,
    "LatteT2V": replace(_LATTE, name="Open-Sora-Plan", vae=CausalVAEConfig),
}


def kind_of(model_type: str) -> ModelKind:
    """The description of a ``model.type``."""
    return _KINDS[model_type]


def check_pieces(sections: Mapping[str, Any], source: Source) -> None:
    """Refuse an autoencoder or a scheduler of another model.

    Args:
        sections: the dataclasses of a config's sections by name.

    Raises:
        ConfigError: names both types, and those that would do.
    """
    model = sections["model"]
    kind = kind_of(model.type)
    for name, wanted in (("vae", kind.vae), ("scheduler", kind.scheduler)):
        section = sections[name]
        if not isinstance(section, wanted):
            choices = " or ".join(f"'{choice}'" for choice in types_of(wanted))
            raise source.error(
                (f"{name}.type", "model.type"),
                f"{name}.type '{section.type}' does not go with model.type '{model.type}' ({kind.name}); set it to "
                f"{choices}",
            )


def check_entries(config: SampleConfig, source: Source) -> None:
    """Refuse entries that mean nothing to the model.

    Raises:
        ConfigError: names the first entry, the model, and what to do.
    """
    fields = config.__dataclass_fields__
    for name in kind_of(config.model.type).refused:
        if getattr(config, name) != fields[name].default:
            try:
                refuse(config, name, fields[name].default)
            except ConfigError as error:
                raise source.error(name, str(error)) from error


def refuse(config: SampleConfig, name: str, default: Any = None) -> None:
    """Refuse the entry ``name`` if it means nothing to the model of ``config``; ``default`` is what it should be.

    Raises:
        ConfigError: without the place where the entry was set.
    """
    kind = kind_of(config.model.type)
    if name in kind.refused:
        raise ConfigError(
            f"{name} does not work with {kind.name} (model.type '{config.model.type}'): {kind.refused[name]}; "
            f"leave it out{'' if default is None else f', or set it to {default!r}'}"
        )


def model_depth(from_pretrained: str, model_type: str, weights_dir: str | os.PathLike[str] | None = None) -> int | None:
    """Number of spatial-temporal block pairs, if it is known without downloading or loading the model."""
    kind = kind_of(model_type)
    depth = local_config(from_pretrained, weights_dir).get(kind.depth_key)
    return depth if isinstance(depth, int) else kind.default_depth
