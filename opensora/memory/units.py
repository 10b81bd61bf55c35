"""Bytes in words."""

from __future__ import annotations


def size_text(nbytes: int) -> str:
    """GB (1e9 bytes) with two decimals, or MB where that would be nothing."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e7 else f"{nbytes / 1e6:.2f} MB"
