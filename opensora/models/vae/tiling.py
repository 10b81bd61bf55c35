"""Tiles: rectangles of a feature map's rows and columns, and how large they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Window:
    """The rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of a feature map; the ends are exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Indices of the last two dimensions."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, margin: int, height: int, width: int) -> Window:
        """With ``margin`` pixels more on each side, as far as a height x width map has them."""
        return Window(
            max(self.top - margin, 0),
            min(self.bottom + margin, height),
            max(self.left - margin, 0),
            min(self.right + margin, width),
        )

    def enlarged(self, factor: int) -> Window:
        """The same region of a map with ``factor`` times the rows and columns."""
        return Window(*(edge * factor for edge in self._edges))

    def reduced(self, factor: int) -> Window:
        """The smallest window of a map with 1 / ``factor`` of the rows and columns that covers this one."""
        top, bottom, left, right = self._edges
        return Window(top // factor, -(-bottom // factor), left // factor, -(-right // factor))

    def within(self, outer: Window) -> Window:
        """This window seen from the upper left corner of ``outer``."""
        return Window(self.top - outer.top, self.bottom - outer.top, self.left - outer.left, self.right - outer.left)

    @property
    def _edges(self) -> tuple[int, int, int, int]:
        return self.top, self.bottom, self.left, self.right


def windows(height: int, width: int, size: int) -> Iterator[Window]:
    """Windows of at most ``size`` rows and columns that cover a map, row by row and all about equally large."""
    for rows in even_parts(height, -(-height // size)):
        for columns in even_parts(width, -(-width // size)):
            yield Window(rows.start, rows.stop, columns.start, columns.stop)
