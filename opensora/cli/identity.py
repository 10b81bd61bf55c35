"""Hashes of what decides how a video looks: equal hashes mean equal videos on the same machine and versions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from adacache.calibration.target import TARGETS
from adacache.policies.registry import config_to_dict
from opensora.cli.plan import Sample
from opensora.config.schema import SampleConfig
from opensora.weights import WeightPaths, fingerprint

# Entries of a config that say where and what is written, or that have done their work before sampling begins.
_NO_INFLUENCE = frozenset(
    {
        *("path", "prompt", "prompt_path", "prompt_as_path", "start_index", "end_index", "reference_path"),
        *("mask_strategy", "save_dir", "logdate_dir", "sample_name", "save_frames", "preview", "contact_sheet"),
        *("verbose", "resample", "weights_dir", "text_cache", "low_memory", "batch_size", "device", "seed"),
        *("frame_interval", "llm_endpoint", "num_sample", "sequence_parallel", "guidance_parallel"),
        *("draft", "final", "calibration", "replay", *TARGETS),
    }
)


def plain_config(config: SampleConfig) -> dict[str, Any]:
    """Return a config as JSON values."""
    entries = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    entries["cache"] = config_to_dict(config.cache) if config.cache else None
    return {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value for name, value in entries.items()
    }


def influences(config: SampleConfig) -> dict[str, Any]:
    """Return the config's entries that influence videos, as JSON values, without the names of weights."""
    entries = {name: value for name, value in plain_config(config).items() if name not in _NO_INFLUENCE}
    if not config.watermark:
        del entries["watermark_text"]
    if not config.llm_refine:
        del entries["llm_model"]
    if not config.negative_prompt:
        del entries["negative_prompt"]
    if config.loop == 1:
        del entries["condition_frame_length"], entries["condition_frame_edit"]
    for section in ("model", "vae", "text_encoder"):  # whose weights have a hash of their own
        entries[section] = {name: value for name, value in entries[section].items() if name != "from_pretrained"}
    if entries["cache"]:
        entries["cache"] = {name: value for name, value in entries["cache"].items() if name != "cache_device"}
    return entries


def config_hash(config: SampleConfig) -> str:
    """Return a hash of the config's entries that influence videos."""
    return _hash(influences(config))


def sample_identity(sample: Sample, config_hash: str, weights: Mapping[str, str], batch: Sequence[Sample]) -> str:
    """Return a hash of what decides how one video looks.

    Versions and hardware are left out, and so are the files beside a piece's weights, such as its config.json.

    Args:
        config_hash: of the sample's config.
        weights: fingerprints of the model's pieces.
        batch: the samples of its batch, which count if they share a schedule.
    """
    shared = getattr(sample.config.cache, "schedule", None) == "batch" and len(batch) > 1
    return _hash(
        {
            "prompt": sample.prompt,
            "seed": sample.seed,
            "config": config_hash,
            "weights": dict(weights),
            "references": list(sample.reference_hashes),
            "mask_strategy": sample.mask_strategy,
            "batch": [_as_mate(mate) for mate in batch] if shared else None,
        }
    )


def _as_mate(sample: Sample) -> list[Any]:
    """Return what a sample's part in a shared schedule depends on."""
    given = [list(sample.reference_hashes), sample.mask_strategy] if sample.references else []
    return [sample.prompt, sample.seed, *given]


def weight_fingerprints(weights: WeightPaths) -> dict[str, str]:
    """Return a short hash of each piece's weights (`opensora.weights.fingerprint`); all must be on this machine.

    Raises:
        WeightsError: a piece has no weights.
        OSError: a file cannot be read.
    """
    return {name: fingerprint(getattr(weights, name)) for name in ("model", "vae", "text_encoder")}


def _hash(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
