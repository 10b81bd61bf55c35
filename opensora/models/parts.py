"""Cutting a range into parts that are about equally long."""

from __future__ import annotations


def even_parts(length: int, count: int) -> list[slice]:
    """`count` consecutive slices that cover a range; their lengths differ by one at most, and may be 0."""
    edges = [length * i // count for i in range(count + 1)]
    return [slice(start, end) for start, end in zip(edges[:-1], edges[1:], strict=True)]


def share_of(length: int, share: tuple[int, int]) -> slice:
    """The i-th of n even parts, `share` being (i, n)."""
    index, count = share
    return even_parts(length, count)[index]
