"""Cutting a range into parts of about equal length."""

from __future__ import annotations


def even_parts(length: int, count: int) -> list[slice]:
    """Return `count` consecutive slices that cover `length` items; their lengths differ by at most one and may be 0."""
    edges = [length * i // count for i in range(count + 1)]
    return [slice(start, end) for start, end in zip(edges[:-1], edges[1:], strict=True)]


def share_of(length: int, share: tuple[int, int]) -> slice:
    """Return the i-th of n even parts of `length` items, where `share` is (i, n)."""
    index, count = share
    return even_parts(length, count)[index]
