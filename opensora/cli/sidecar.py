"""Make a video again from the JSON file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from adacache.calibration.target import TARGETS
from adacache.policies.multistep import MultistepConfig
from opensora.cli.plan import Sample
from opensora.conditioning.references import check_reference, fitting_mask_strategy, sha256_of
from opensora.config.entries import name_of_overrides
from opensora.config.loading import config_from_entries
from opensora.config.schema import SampleConfig
from opensora.config.target import conditions_of, find_calibration, mismatch
from opensora.errors import ConfigError, shortened
from opensora.prompts.run_prompts import MAX_SEED, all_prompts
from opensora.weights import fingerprint

# Entries that have done their work: what they asked for is in other entries.
_DONE = (
    *("path", "replay", *TARGETS, "draft", "final"),
    *("prompt_path", "reference_path", "mask_strategy", "llm_refine", "low_memory"),
    *("sequence_parallel", "guidance_parallel"),  # as many processes as there are now
)
_NOT_OVER_A_SIDECAR = (
    *("draft", "final", "num_sample", "prompt_path", "start_index", "end_index", "reference_path"),
    *("sample_name", "prompt_as_path"),  # the video keeps its name
)
_REPRODUCED = "reproduced"  # subfolder beside the sidecar, unless another folder is given


class _Reference(BaseModel):
    path: str
    sha256: str


class _Metadata(BaseModel, strict=True):
    prompt: str
    seed: int = Field(ge=0, le=MAX_SEED)
    config: dict[str, Any]
    prompt_index: int = 0
    number: int = 0
    refined: str | None = None
    video: str = "sample"
    references: list[_Reference] = []
    weights: dict[str, Any] = {}
    mask_strategy: str = ""


class _Sidecar(BaseModel):
    metadata: _Metadata


def read_sidecar(path: str, flags: Mapping[str, Any], cfg_options: Mapping[str, Any]) -> tuple[SampleConfig, Sample]:
    """Return the config and the one sample that a sidecar describes; values of the command line override it.

    Raises:
        ConfigError: the file is not a sidecar, a reference has changed, or a value cannot be used.
    """
    metadata = _load(Path(path).expanduser())
    given = {**cfg_options, **{name: value for name, value in flags.items() if value is not None}}
    entries = {name: value for name, value in metadata.config.items() if name not in _DONE}
    kept = entries.pop("calibration", None)
    if kept is not None and any(name in given for name in TARGETS):  # else the cache says which steps it computed
        entries["calibration"] = str(find_calibration(kept, metadata.config.get("path", "")) or kept)
    entries["image_size"] = [entries.pop("height"), entries.pop("width")]
    cache = entries.get("cache")
    if isinstance(cache, Mapping) and cache.get("policy") == "multistep":
        entries["cache"] = {**cache, "cache_dtype": None}  # older sidecars name one, which did nothing
    entries["save_frames"] = bool(entries.get("save_frames"))  # older sidecars name a kind of file
    text = metadata.refined or metadata.prompt  # a language model asked again might answer otherwise
    entries |= {"prompt": [text], "num_sample": 1, "start_index": 0, "end_index": None}
    folder = Path(path).parent / _REPRODUCED / name_of_overrides(given)
    entries |= {"logdate_dir": False, "resample": False, "save_dir": str(folder)}
    for name in _NOT_OVER_A_SIDECAR:
        if given.get(name) is not None:
            raise ConfigError(f"--from-sidecar makes one video again; leave out {name}")
    config = config_from_entries(entries, path, flags, cfg_options)
    if isinstance(config.cache, MultistepConfig) and not any(name in given for name in ("cache", "replay", *TARGETS)):
        _check_calibrated(config, config_from_entries(entries, path), metadata, path)
    if config.prompt is not None and len(config.prompt) > 1:
        raise ConfigError(f"--from-sidecar makes one video again, got {len(config.prompt)} prompts")
    if config.mask_strategy is not None and len(config.mask_strategy) > 1:
        raise ConfigError(f"--from-sidecar makes one video again, got {len(config.mask_strategy)} mask strategies")
    prompt = all_prompts(config)[0]
    if prompt.problem or prompt.overrides:
        raise ConfigError(prompt.problem or "--from-sidecar: the prompt has settings in braces; give them as flags")
    seed = config.seed if "seed" in given else metadata.seed
    stem = Path(metadata.video).stem
    sample = Sample(metadata.prompt_index, prompt.text, seed, config, metadata.number, stem)
    for reference in metadata.references:
        info = check_reference(reference.path)
        if sha256_of(info.path) != reference.sha256:
            raise ConfigError(f"{reference.path} is no longer the file that {path} was made with")
        sample.references += (info,)
        sample.reference_hashes += (reference.sha256,)
    strategy = config.mask_strategy[0] if config.mask_strategy else metadata.mask_strategy
    try:
        sample.mask_strategy = fitting_mask_strategy(strategy, sample.references, config)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return config, sample


def _check_calibrated(config: SampleConfig, original: SampleConfig, metadata: _Metadata, path: str) -> None:
    """Refuse the calibrated cache of a sidecar in a run that it was not made for.

    Raises:
        ConfigError: the run differs from the sidecar's `original` in what a calibration holds for.
    """
    difference = mismatch(conditions_of(original), config)
    model = config.model.from_pretrained
    if difference is None and model != original.model.from_pretrained:
        known = metadata.weights.get("model")
        if known is None or not Path(model).is_dir() or fingerprint(model) != known:
            difference = f"it was made for the weights in {original.model.from_pretrained}, but this run has {model}"
    if difference is not None:
        raise ConfigError(
            f"{path} has a calibrated cache, which does not fit: {difference}; give --cfg-options cache=None, or a "
            "target (--speedup) and a calibration of this setting"
        )


def _load(path: Path) -> _Metadata:
    """Read the `metadata` of a sidecar.

    Raises:
        ConfigError: the file cannot be read or lacks something.
    """
    try:
        metadata = _Sidecar.model_validate_json(path.read_bytes()).metadata
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "it"
        raise _not_a_sidecar(path, f"{where}: {problem['msg'].lower()}") from error
    if not {"height", "width", "model"} <= metadata.config.keys():
        raise _not_a_sidecar(path, "metadata.config is not complete")
    return metadata


def _not_a_sidecar(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{path} is not the .json of a sampled video: {shortened(reason)}")
