"""The options of AdaCache as frozen, checked values; plain dicts from config files become these at once."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from adacache import official_options
from adacache.codebook import PRESETS, Codebook
from adacache.moreg import MoRegConfig
from adacache.options import ReuseOptions
from adacache.policies.adacache import AdaCachePolicy
from adacache.sites import Metric, check_blocks_fit, metric_sites, read_metric_blocks
from adacache.validation import check_count, check_keys

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdaCacheConfig(ReuseOptions):
    """What AdaCache measures, and how a measurement becomes a schedule.

    `metric` names the residual that is compared between computed steps: temporal attention ("t-attn"),
    spatial attention ("s-attn"), or cross-attention + MLP of both streams ("ca-mlp"). `metric_blocks` are the
    0-based indices of the blocks in which it is measured (their order does not matter, the model's does).
    `codebook` takes every form that `Codebook.from_value` knows, `moreg` every form that
    `MoRegConfig.from_value` knows. The options of `ReuseOptions` are explained there.

    Raises: ValueError in one sentence that names the option.
    Source: arXiv:2411.02397, Adaptive Caching and Motion Regularization.
    """

    codebook: Codebook = PRESETS["steps100"]
    metric: Metric = "t-attn"
    metric_blocks: tuple[int, ...] = (13,)
    moreg: MoRegConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "codebook", Codebook.from_value(self.codebook))
        object.__setattr__(self, "metric_blocks", read_metric_blocks(self.metric, self.metric_blocks))
        object.__setattr__(self, "moreg", MoRegConfig.from_value(self.moreg))

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> "AdaCacheConfig | None":
        """Read a config section in the names of this class, or in the flat names of the official code.

        Missing keys take the defaults. The official `do_cache=False` gives None: no caching.

        Raises: ValueError for an unknown key, a wrong value, or names of both kinds at once.
        """
        if not isinstance(options, Mapping):
            raise ValueError(f"the AdaCache config must be a mapping of options to values, got {options!r}")
        own = [field.name for field in fields(cls)]
        official = [key for key in options if key in official_options.DISTINCTIVE]
        if not official:
            check_keys("AdaCache option", options, [*own, *official_options.DISTINCTIVE])
            return cls(**options)
        mixed_in = [key for key in options if key in own and key != "codebook"]
        if mixed_in:
            raise ValueError(
                f"the AdaCache config mixes '{mixed_in[0]}' with '{official[0]}' of the official code; "
                f"use only {', '.join(own)}, or only {', '.join(official_options.DEFAULTS)}"
            )
        translated = official_options.translate(options)
        return cls(**translated) if translated else None

    def to_dict(self) -> dict[str, Any]:
        """The config as plain lists, numbers and strings; `from_dict` reads it back."""
        moreg = asdict(self.moreg) if self.moreg else None
        if moreg:
            moreg |= {"strides": list(self.moreg.strides), "window": list(self.moreg.window)}
        return {
            "codebook": self.codebook.to_dict(),
            "metric": self.metric,
            "metric_blocks": list(self.metric_blocks),
            "moreg": moreg,
            **self.reuse_dict(),
        }

    def validate(self, num_steps: int, num_blocks: int | None = None) -> None:
        """Check the config against the run it is meant for, before anything heavy is loaded.

        `num_blocks` is the number of blocks per stream (the model's depth), None while it is not known.

        Raises: ValueError when a metric block or the MoReg window lies outside.
        """
        check_count("num_steps", num_steps)
        check_blocks_fit(self.metric_blocks, num_blocks)
        if self.moreg:
            self.moreg.resolve_window(num_steps)
        if self.codebook.num_sampling_steps not in (None, num_steps):
            logger.warning(
                "The codebook was tuned for %d sampling steps, this run has %d: residuals change by another "
                "amount per step, so expect another speed and fidelity than published.",
                self.codebook.num_sampling_steps,
                num_steps,
            )

    def make_policy(self, num_steps: int) -> AdaCachePolicy:
        """A fresh policy for one run of `num_steps` sampling steps.

        Raises: ValueError when the MoReg window does not fit `num_steps`.
        """
        return AdaCachePolicy(self.codebook, metric_sites(self.metric, self.metric_blocks), num_steps, self.moreg)
