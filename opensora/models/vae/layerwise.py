"""Convolutions, group norms and residual blocks, computed tile by tile, one layer after the other.

The usual tiling of an autoencoder decodes overlapping tiles on their own and blends them. Every tile then has its own
group norm statistics, hence its own brightness, and blending only smooths the steps between tiles. Here all tiles pass
one layer before any of them enters the next: statistics are those of the whole frame, each convolution reads the
pixels that it needs around its tile, and the result is that of the whole frame up to rounding. There are no seams to
hide, no overlap is computed twice, and tiles may be small. Memory holds the input and the output of one layer (the
untiled modules hold three to four such maps and the temporaries of all frames of a micro batch); for very large frames,
decoding tiles on their own takes less.

Feature maps are (B, C, ..., H, W); rows and columns are tiled, a time dimension is not. Nothing here records gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from opensora.models.parts import even_parts

DEFAULT_TILE_SIZE = 32


@dataclass(frozen=True)
class TilingConfig:
    """How an autoencoder cuts its layers into tiles.

    There is no overlap to choose: each layer reads the one pixel around a tile that its kernel needs.

    Attributes:
        tile_size: rows and columns of a tile, in latents. It bounds what a layer holds besides its input and its
            output; at the published autoencoder's 8 pixels per latent, the default of 32 makes tiles of 256 pixels,
            whose temporaries take about 0.2 GB in float32.

    Raises:
        ValueError: the size is not a positive integer.
    """

    tile_size: int = DEFAULT_TILE_SIZE

    def __post_init__(self) -> None:
        if isinstance(self.tile_size, bool) or not isinstance(self.tile_size, int) or self.tile_size < 1:
            raise ValueError(f"tile_size must be a positive number of latents, as in 32; got {self.tile_size!r}")

    def divides(self, height: int, width: int) -> bool:
        """Whether a frame of height x width latents takes more than one tile."""
        return height > self.tile_size or width > self.tile_size


Window = tuple[slice, slice]  # rows and columns of a feature map


def windows(height: int, width: int, size: int) -> Iterator[Window]:
    """Yield windows of at most `size` rows and columns that cover a map, row by row and all of about equal size."""
    return product(even_parts(height, -(-height // size)), even_parts(width, -(-width // size)))


_MARGIN = 1  # pixels that a 3x3 kernel reads around its own

Layer = Callable[[Tensor], Tensor]


class Stored:
    """A feature map in memory."""

    def __init__(self, values: Tensor):
        self.values = values
        self.height, self.width = values.shape[-2:]

    def read(self, window: Window) -> Tensor:
        """Return the window's values, (B, C, ..., rows, columns)."""
        return self.values[..., *window]


class Computed:
    """A layer's output that is computed anew for each window: for maps too large to keep.

    Args:
        upscale: rows of the output for each row of `source`.
    """

    def __init__(self, source: FeatureMap, layer: Layer, upscale: int = 1):
        self.source, self.layer, self.upscale = source, layer, upscale
        self.height, self.width = source.height * upscale, source.width * upscale

    def read(self, window: Window) -> Tensor:
        """Return the window's values, (B, C, ..., rows, columns)."""
        return local(self.layer, self.source, window, upscale=self.upscale)


FeatureMap = Stored | Computed


def local(layer: Layer, source: FeatureMap, window: Window, *, upscale: int = 1, downscale: int = 1) -> Tensor:
    """Compute one window of the output of a layer that reads at most one pixel (of the coarser map) around its own.

    The layer runs on a larger window, whose rim is then cut off, as the layer's own padding has spoiled it. At the
    edges of the frame there is no rim, and that padding is the right one.
    """
    rows, kept_rows = _with_margin(window[0], source.height, upscale, downscale)
    columns, kept_columns = _with_margin(window[1], source.width, upscale, downscale)
    return layer(source.read((rows, columns)))[..., kept_rows, kept_columns]


def _with_margin(part: slice, length: int, upscale: int, downscale: int) -> tuple[slice, slice]:
    """Return what a layer reads along one axis of `length` pixels, and where `part` then lies in its output."""
    margin = _MARGIN * downscale
    first = max(part.start * downscale // upscale - margin, 0)
    end = min(-(-part.stop * downscale // upscale) + margin, length)
    offset = first * upscale // downscale
    return slice(first, end), slice(part.start - offset, part.stop - offset)


def store(height: int, width: int, tile: int, compute: Callable[[Window], Tensor]) -> Stored:
    """Compute a map window by window."""
    values: Tensor | None = None
    for window in windows(height, width, tile):
        part = compute(window)
        if values is None:
            values = part.new_empty(*part.shape[:-2], height, width)
        values[..., *window] = part
        del part  # frees it before the next one is computed
    return Stored(values)


def convolve(layer: Layer, source: FeatureMap, tile: int, *, upscale: int = 1, downscale: int = 1) -> Stored:
    """Compute the whole output of a layer; `tile` counts rows and columns of that output."""
    height, width = source.height * upscale // downscale, source.width * upscale // downscale
    return store(height, width, tile, lambda w: local(layer, source, w, upscale=upscale, downscale=downscale))


class Statistics:
    """Mean and variance of the channel groups of a map, gathered window by window.

    Source: the parallel algorithm of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances", 1979.
    """

    def __init__(self, norm: nn.GroupNorm):
        self.norm = norm
        self.count = 0
        self.mean: Tensor | float = 0.0  # (B, groups) once there are values
        self.squares: Tensor | float = 0.0  # sum of squared deviations, (B, groups)

    def add(self, part: Tensor) -> Tensor:
        """Add the values of a window to the statistics and return them unchanged."""
        values = part.to(_statistics_dtype(part)).unflatten(1, (self.norm.num_groups, -1)).flatten(2)
        mean = values.mean(2, keepdim=True)
        squares = (values - mean).square_().sum(2)
        mean, count = mean.squeeze(2), values.shape[2]
        total = self.count + count
        shift = mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self.squares = self.squares + squares + shift.square() * (self.count * count / total)
        self.count = total
        return part

    def normalization(self, activation: Layer) -> Layer:
        """Return the function that applies group norm and activation to a window."""
        deviation = (self.squares / self.count + self.norm.eps).rsqrt()
        channels = self.norm.num_channels // self.norm.num_groups
        deviation = deviation.repeat_interleave(channels, 1)  # (B, C)
        mean = self.mean.repeat_interleave(channels, 1)
        scale = deviation * self.norm.weight.to(deviation.dtype)
        shift = self.norm.bias.to(deviation.dtype) - mean * scale

        def apply(part: Tensor) -> Tensor:
            shape = (*scale.shape, *[1] * (part.ndim - 2))
            return activation(torch.addcmul(shift.view(shape), part, scale.view(shape)).to(part.dtype))

        return apply


def statistics(norm: nn.GroupNorm, source: FeatureMap, tile: int) -> Statistics:
    """Gather the statistics of a whole map."""
    gathered = Statistics(norm)
    for window in windows(source.height, source.width, tile):
        gathered.add(source.read(window))
    return gathered


def normalized_convolution(
    norm: nn.GroupNorm, activation: Layer, convolution: Layer, source: FeatureMap, tile: int
) -> Stored:
    """Compute `convolution(activation(norm(source)))`."""
    normalize = statistics(norm, source, tile).normalization(activation)
    return convolve(lambda part: convolution(normalize(part)), source, tile)


@dataclass(frozen=True)
class ResidualLayers:
    """The layers of a residual block; `shortcut` is 1x1 where the channel count changes, else None."""

    norm1: nn.GroupNorm
    conv1: nn.Module
    norm2: nn.GroupNorm
    conv2: nn.Module
    shortcut: nn.Module | None
    activation: Layer


def residual_block(layers: ResidualLayers, source: FeatureMap, tile: int) -> Stored:
    """Apply a residual block to `source`; without a shortcut, the result overwrites a stored source.

    Peak memory is the source, one map of the hidden channels and, with a shortcut, one of the output channels.
    """
    before = Statistics(layers.norm1)
    if layers.shortcut is None and isinstance(source, Stored):
        result = source
        before = statistics(layers.norm1, source, tile)
    else:
        shortcut = layers.shortcut or nn.Identity()
        # Each window of a computed source is read once for both statistics and shortcut.
        result = store(source.height, source.width, tile, lambda w: shortcut(before.add(source.read(w))))
    normalize = before.normalization(layers.activation)
    hidden = convolve(lambda part: layers.conv1(normalize(part)), source, tile)
    normalize = statistics(layers.norm2, hidden, tile).normalization(layers.activation)
    for window in windows(result.height, result.width, tile):
        result.values[..., *window] += local(lambda part: layers.conv2(normalize(part)), hidden, window)
    return result


def _statistics_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype of group norm statistics: float32 for 16-bit features, too."""
    return torch.promote_types(values.dtype, torch.float32)
