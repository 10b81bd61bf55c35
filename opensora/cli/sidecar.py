"""Make a video again from the JSON file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opensora.cli.plan import Sample
from opensora.conditioning.mask_strategy import check_mask_strategy
from opensora.conditioning.references import ReferenceInfo, check_reference, sha256_of
from opensora.config.entries import name_of_overrides
from opensora.config.loading import config_from_entries
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError, one_line, shortened
from opensora.prompts.run_prompts import MAX_SEED

# Entries that have done their work: what they asked for is in other entries.
_DONE = (
    *("path", "calibration", "replay", "speedup", "max_steps_computed", "min_psnr", "draft", "final"),
    *("prompt_path", "reference_path", "mask_strategy", "llm_refine", "low_memory"),
    *("sequence_parallel", "guidance_parallel"),  # as many processes as there are now
)
_NOT_OVER_A_SIDECAR = ("draft", "final", "num_sample", "prompt_path", "start_index", "end_index", "reference_path")
_REPRODUCED = "reproduced"  # subfolder beside the sidecar, unless another folder is given


def read_sidecar(path: str, flags: Mapping[str, Any], cfg_options: Mapping[str, Any]) -> tuple[SampleConfig, Sample]:
    """Return the config and the one sample that a sidecar describes; values of the command line override it.

    Raises:
        ConfigError: the file is not a sidecar, a reference has changed, or a value cannot be used.
    """
    metadata = _load(Path(path).expanduser())
    entries = {name: value for name, value in metadata["config"].items() if name not in _DONE}
    entries["image_size"] = [entries.pop("height"), entries.pop("width")]
    text = metadata.get("refined", metadata["prompt"])  # a language model asked again might answer otherwise
    entries |= {"prompt": [text], "num_sample": 1, "start_index": 0, "end_index": None}
    given = {**cfg_options, **{name: value for name, value in flags.items() if value is not None}}
    folder = Path(path).parent / _REPRODUCED / name_of_overrides(given)
    entries |= {"logdate_dir": False, "resample": False, "save_dir": str(folder)}
    for name in _NOT_OVER_A_SIDECAR:
        if given.get(name) is not None:
            raise ConfigError(f"--from-sidecar makes one video again; leave out {name}")
    config = config_from_entries(entries, path, flags, cfg_options)
    if config.prompt is not None and len(config.prompt) > 1:
        raise ConfigError(f"--from-sidecar makes one video again, got {len(config.prompt)} prompts")
    text = config.prompt[0] if config.prompt else text
    seed = config.seed if "seed" in given else metadata["seed"]
    sample = Sample(metadata.get("prompt_index", 0), text, seed, config)
    sample.stem = Path(str(metadata.get("video") or "sample")).stem
    sample.references, sample.reference_hashes, sample.mask_strategy = _references(metadata, config, path)
    return config, sample


def _load(path: Path) -> dict[str, Any]:
    """Read the `metadata` of a sidecar.

    Raises:
        ConfigError: the file cannot be read or lacks something.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        metadata = content.get("metadata") if isinstance(content, dict) else None
        if not isinstance(metadata, dict):
            raise ValueError("it has no metadata")
        missing = [name for name in ("prompt", "seed", "config") if name not in metadata]
        if missing or not isinstance(metadata["config"], dict):
            raise ValueError(f"it lacks {' and '.join(missing) or 'a config'}")
        if not {"height", "width", "model"} <= metadata["config"].keys():
            raise ValueError("its config is not complete")
        if not isinstance(metadata["seed"], int) or not 0 <= metadata["seed"] <= MAX_SEED:
            raise ValueError(f"its seed is {metadata['seed']!r}")
        if not all(isinstance(metadata.get(name, 0), int) for name in ("prompt_index", "number")):
            raise ValueError("its prompt_index is not a number")
        if not isinstance(metadata.get("mask_strategy", ""), str) or not _are_references(
            metadata.get("references", [])
        ):
            raise ValueError("each of its references needs a path and a sha256")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not the .json of a sampled video: {shortened(one_line(error))}") from error
    return metadata


def _are_references(entries: Any) -> bool:
    """Whether `entries` is a list of files with their hashes."""
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in ("path", "sha256"))
        for entry in entries
    )


def _references(
    metadata: Mapping[str, Any], config: SampleConfig, path: str
) -> tuple[tuple[ReferenceInfo, ...], tuple[str, ...], str]:
    """Return the references of the sample, their hashes, and the mask strategy, by the command line if it has one.

    Raises:
        ConfigError: a reference is missing or has changed, or the strategy does not fit.
    """
    infos, hashes = [], []
    for reference in metadata.get("references", ()):
        infos.append(check_reference(reference["path"]))
        hashes.append(reference["sha256"])
        if sha256_of(infos[-1].path) != hashes[-1]:
            raise ConfigError(f"{reference['path']} is no longer the file that {path} was made with")
    strategy = config.mask_strategy[0] if config.mask_strategy else metadata.get("mask_strategy", "")
    try:
        check_mask_strategy(strategy, len(infos))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return tuple(infos), tuple(hashes), strategy
