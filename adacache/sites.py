"""Names for the places of a model that can be measured."""

from typing import Literal, NamedTuple, TypeAlias

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
    """The groups of sites that a metric observes in the given blocks, one group per observation."""
    streams, parts = METRICS[metric]
    return tuple(tuple(Site(stream, block, part) for part in parts) for block in blocks for stream in streams)
