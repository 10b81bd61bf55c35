"""Progress bars of a bench's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], object]]:
    """A function that is told how many clips are finished; a bar appears with the first of them."""
    bars: list[tqdm] = []

    def finished(count: int) -> None:
        if not bars:
            bars.append(tqdm(desc=what, unit="clip"))
        bars[0].update(count)

    try:
        yield finished
    finally:
        for bar in bars:
            bar.close()


@contextmanager
def ticking(what: str, total: int | None = None) -> Iterator[Callable[[str], object]]:
    """A function that is called after every video with the name of its policy, which the bar shows."""
    with tqdm(desc=what, total=total, unit="video") as bar:

        def finished(policy: str) -> None:
            bar.set_postfix_str(policy, refresh=False)
            bar.update()

        yield finished
