"""The video's size, length and frame rate from the words of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opensora.config.reading import Source, read_value
from opensora.config.schema import SampleConfig
from opensora.datasets.aspect import NUM_FRAMES_MAP, get_image_size, get_num_frames
from opensora.errors import one_line

SIZE_KEYS = ("image_size", "resolution", "aspect_ratio")


def resolve_size(size: Mapping[str, Any], source: Source) -> tuple[int, int]:
    """Height and width in pixels, from ``image_size`` or from ``resolution`` and ``aspect_ratio`` (None: unset).

    Raises:
        ConfigError: neither or both are given, or a name is unknown.
    """
    names = {key: size[key] for key in ("resolution", "aspect_ratio") if size[key] is not None}
    if size["image_size"] is not None:
        if names:
            raise source.error(
                "image_size", f"image_size and {next(iter(names))} exclude each other; set one of them to None"
            )
        return read_value(size["image_size"], tuple[int, int], "image_size", source)
    if len(names) < 2:
        missing = next(key for key in ("resolution", "aspect_ratio") if key not in names)
        raise source.error(SIZE_KEYS, f"'{missing}' is missing; a size is resolution and aspect_ratio, or image_size")
    for key, value in names.items():
        read_value(value, str | int, key, source)
    try:
        return get_image_size(names["resolution"], names["aspect_ratio"])
    except ValueError as error:
        raise source.error(SIZE_KEYS, one_line(error)) from error


def resolve_num_frames(num_frames: Any, source: Source, has_durations: bool = True) -> int:
    """Number of frames of a duration name ("2s") or a number.

    Args:
        has_durations: whether durations have a meaning for the model.

    Raises:
        ConfigError: missing, or neither of the two.
    """
    if num_frames is None:
        forms = "a duration ('2s') or a number of frames" if has_durations else "a number of frames"
        raise source.error("num_frames", f"'num_frames' is missing; give {forms}")
    read_value(num_frames, int | float | str, "num_frames", source)
    if num_frames in NUM_FRAMES_MAP and not has_durations:
        raise source.error(
            "num_frames", f"num_frames={num_frames!r} is a duration of Open-Sora; give this model a number of frames"
        )
    try:
        return get_num_frames(num_frames)
    except ValueError as error:
        raise source.error("num_frames", one_line(error)) from error


def frames_per_chunk(config: SampleConfig) -> int:
    """Frames that the autoencoder encodes and decodes together."""
    return config.vae.frames_per_chunk(config.num_frames)


def latents_per_chunk(config: SampleConfig) -> int:
    """Latent frames of a whole chunk: 5 of 17 frames."""
    return config.vae.latent_frames(frames_per_chunk(config))


def latent_frames(num_frames: int, config: SampleConfig) -> int:
    """Latent frames of a clip."""
    return config.vae.latent_frames(num_frames)


def default_save_fps(entries: Mapping[str, Any]) -> int:
    """Frame rate of the mp4 when the config does not say: every ``frame_interval``-th of ``fps`` frames."""
    fps, interval = entries.get("fps", 24), entries.get("frame_interval", 1)
    usable = all(isinstance(number, int) and number > 0 for number in (fps, interval))
    return max(1, fps // interval) if usable else 1  # unusable ones get their own error
