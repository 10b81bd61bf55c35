"""Sizes of videos that a model cannot make, or a cache not measure, as far as the checkpoints' config.json tell."""

from __future__ import annotations

from opensora.config.kinds import kind_of
from opensora.config.reading import Source
from opensora.config.schema import SampleConfig
from opensora.weights import local_config

_PATCH_SIZE = 2  # latents per side of a token, where no config.json says otherwise


def check_size_limits(config: SampleConfig, source: Source) -> None:
    """Refuse numbers of frames and pixels that a model of fixed length cannot make; 1 frame is an image.

    Images pass no temporal attention, so no cache can measure it. Of a checkpoint that is not on this machine, the
    sizes are taken for the published ones, and its length is not known.

    Raises:
        ConfigError: names the number, and those that would do.
    """
    if kind_of(config.model.type).length_key is not None:
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
    length = _entries(config, "model").get(kind_of(config.model.type).length_key)
    if latents == 1 and getattr(config.cache, "metric", None) == "t-attn":
        raise source.error(
            ("cache.metric", "num_frames"),
            "the cache measures temporal attention, of which an image has none; set cache.metric='s-attn', or "
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
    """The entries of a checkpoint's config.json; none if it is not on this machine."""
    return local_config(getattr(config, section).from_pretrained, config.weights_dir)
