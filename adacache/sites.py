"""Names for the places of a model that can be measured."""

from typing import Any, Literal, NamedTuple, TypeAlias

from adacache.validation import check_choice, whole_numbers

Metric = Literal["t-attn", "s-attn", "ca-mlp"]
Stream = Literal["spatial", "temporal"]
Part = Literal["attn", "cross", "mlp"]


class Site(NamedTuple):
    """One residual branch of one block: what a model passes to `StepController.branch`.

    `stream` says along which axis the block's self-attention works, `block` is the 0-based index within its
    stream, and `part` is the branch: self-attention, cross-attention or MLP.
    """

    stream: Stream
    block: int
    part: Part

    def __str__(self) -> str:
        return f"{self.stream} block {self.block} {self.part}"


# One observation is made on the sum of the residuals of a group of sites (mostly a group of one).
SiteGroup: TypeAlias = tuple[Site, ...]

# metric name -> (streams that are observed separately, parts whose residuals are added up)
METRICS: dict[str, tuple[tuple[Stream, ...], tuple[Part, ...]]] = {
    "t-attn": (("temporal",), ("attn",)),
    "s-attn": (("spatial",), ("attn",)),
    "ca-mlp": (("spatial", "temporal"), ("cross", "mlp")),
}


def metric_sites(metric: str, blocks: tuple[int, ...]) -> tuple[SiteGroup, ...]:
    """Return the groups of sites that a metric observes in the given blocks, one group per observation."""
    streams, parts = METRICS[metric]
    return tuple(tuple(Site(stream, block, part) for part in parts) for block in blocks for stream in streams)


def read_metric_blocks(metric: Any, blocks: Any) -> tuple[int, ...]:
    """Return the blocks that a config names for a metric, ascending, each once.

    Raises:
        ValueError: the metric is unknown, or `blocks` is not a list of block indices.
    """
    check_choice("metric", metric, METRICS)
    return tuple(sorted(set(whole_numbers("metric_blocks", blocks, minimum=0))))


def check_blocks_fit(blocks: tuple[int, ...], num_blocks: int | None) -> None:
    """Refuse, with a ValueError, blocks that a model of `num_blocks` per stream lacks; None means not known yet."""
    if num_blocks is not None and blocks[-1] >= num_blocks:
        raise ValueError(
            f"metric_blocks {list(blocks)} do not fit a model of {num_blocks} blocks; "
            f"valid indices are 0..{num_blocks - 1}"
        )
