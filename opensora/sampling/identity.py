"""What decides how a video looks, as a hash: equal hashes, equal videos (on the same machine and versions)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adacache.policies.registry import config_to_dict
from opensora.config.conditions import fingerprint
from opensora.config.schema import SampleConfig
from opensora.datasets.references import sha256_of
from opensora.sampling.plan import PlannedSample
from opensora.utils.weights import WeightPaths

# Entries of a config that say where and what is written, or that have done their work before sampling begins.
_NO_INFLUENCE = frozenset(
    {
        *("path", "prompt", "prompt_path", "prompt_as_path", "start_index", "end_index", "reference_path"),
        *("mask_strategy", "save_dir", "logdate_dir", "sample_name", "save_frames", "preview", "contact_sheet"),
        *("verbose", "resample", "weights_dir", "text_cache", "low_memory", "batch_size", "device", "seed"),
        *("num_sample", "draft", "final", "calibration", "replay", "speedup", "max_steps_computed", "min_psnr"),
    }
)


def plain_config(config: SampleConfig) -> dict[str, Any]:
    """A config as JSON values."""
    entries = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    entries["cache"] = config_to_dict(config.cache) if config.cache else None
    return {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value for name, value in entries.items()
    }


def config_hash(config: SampleConfig) -> str:
    """A hash of the entries that influence videos."""
    return _hash({name: value for name, value in plain_config(config).items() if name not in _NO_INFLUENCE})


def sample_identity(sample: PlannedSample, weights: Mapping[str, str]) -> str:
    """A hash of everything that decides about one video but versions and hardware.

    Args:
        weights: fingerprints of the model's pieces.

    Raises:
        OSError: a reference cannot be read.
    """
    return _hash(
        {
            "prompt": sample.prompt.text,
            "seed": sample.prompt.seed,
            "config": config_hash(sample.config),
            "weights": dict(weights),
            "references": [sha256_of(Path(info.path)) for info in sample.references],
            "mask_strategy": sample.mask_strategy,
        }
    )


def weight_fingerprints(weights: WeightPaths) -> dict[str, str]:
    """A short hash of each piece's weights, see ``opensora.config.conditions``; all have to be on this machine.

    Raises:
        WeightsError: a piece has no weights.
        OSError: a file cannot be read.
    """
    return {name: fingerprint(getattr(weights, name)) for name in ("model", "vae", "text_encoder")}


def _hash(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
