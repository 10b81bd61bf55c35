"""What a run will sample, decided before anything heavy is imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opensora.cli.drafts import planned_samples
from opensora.cli.names import file_stems
from opensora.cli.pairing import pair_references, pair_strategies
from opensora.conditioning.mask_strategy import check_mask_strategy, check_placement, default_mask_strategy
from opensora.conditioning.references import (
    ReferenceInfo,
    check_reference,
    resolve_reference,
    sha256_of,
    split_references,
)
from opensora.config.kinds import refuse
from opensora.config.schema import SampleConfig
from opensora.config.video import latent_frames, latents_per_chunk
from opensora.errors import ConfigError, shortened
from opensora.files import find_path
from opensora.prompts.run_prompts import NumberedPrompt, check_any_usable, whole_file

# (overrides of one prompt, what errors about them begin with) -> the config of that prompt's samples.
LineConfig = Callable[[Mapping[str, Any], str], SampleConfig]

_NOT_CONFIG = ("reference_path", "mask_strategy", "name")  # overrides that are no entries of a config


@dataclass(frozen=True)
class PlannedSample:
    """One video that a run is to make.

    Attributes:
        stem: its files' names without suffix.
        config: the run's, with what the prompt's own line says.
        references: images and videos it is conditioned on.
        reference_hashes: SHA-256 of their files.
        mask_strategy: where they go; "" without references.
        problem: why it cannot be sampled, in one sentence; None if it can.
    """

    prompt: NumberedPrompt
    stem: str
    config: SampleConfig
    references: tuple[ReferenceInfo, ...] = ()
    reference_hashes: tuple[str, ...] = ()
    mask_strategy: str = ""
    problem: str | None = None


def plan_samples(
    config: SampleConfig, prompts: Sequence[NumberedPrompt], line_config: LineConfig
) -> list[PlannedSample]:
    """The samples of a run, in order; one with a problem is among them as long as another one can be sampled.

    Args:
        prompts: of the run, see ``read_prompts``.
        line_config: makes the config of a prompt with overrides.

    Raises:
        ConfigError: no sample at all can be made, or references and prompts do not pair up.
    """
    planned = planned_samples(config, prompts)
    stems = file_stems(config, planned, prompts if config.prompt is not None else whole_file(config))
    references = pair_references(config, prompts)
    strategies = pair_strategies(config, prompts)
    known: dict[str, SampleConfig] = {}
    samples = []
    for prompt, stem in zip(planned, stems, strict=True):
        sample = PlannedSample(prompt, stem, config, problem=prompt.problem)
        if sample.problem is None:
            try:
                own = _config_of(prompt, config, line_config, known)
                infos, hashes, strategy = _conditions(prompt, config, own, references, strategies)
                sample = dataclasses.replace(
                    sample, config=own, references=infos, reference_hashes=hashes, mask_strategy=strategy
                )
            except (ConfigError, ValueError) as error:
                sample = dataclasses.replace(sample, problem=str(error))
        samples.append(sample)
    check_any_usable([dataclasses.replace(sample.prompt, problem=sample.problem) for sample in samples])
    return samples


def _config_of(
    prompt: NumberedPrompt, config: SampleConfig, line_config: LineConfig, known: dict[str, SampleConfig]
) -> SampleConfig:
    """The config of one prompt; prompts with the same overrides share one object."""
    overrides = {name: value for name, value in prompt.overrides.items() if name not in _NOT_CONFIG}
    if not overrides:
        return config
    key = repr(sorted(overrides.items()))
    if key not in known:
        where = f"prompt {prompt.index}" + (f" (line {prompt.line} of {config.prompt_path})" if prompt.line else "")
        own = line_config(overrides, where)
        known[key] = dataclasses.replace(own, batch_size=config.batch_size)
    return known[key]


def _conditions(
    prompt: NumberedPrompt,
    config: SampleConfig,
    own: SampleConfig,
    references: Mapping[int, str],
    strategies: Mapping[int, str],
) -> tuple[tuple[ReferenceInfo, ...], tuple[str, ...], str]:
    """The checked references of one prompt, their hashes, and where they go.

    Raises:
        ConfigError, ValueError: a reference is missing or cannot be read, or the strategy does not fit.
    """
    folder = None if config.prompt_path is None else (find_path(config.prompt_path) or Path(config.prompt_path)).parent
    given = prompt.overrides.get("reference_path", references.get(prompt.index, ""))
    texts = split_references(given) if isinstance(given, str) else [str(text) for text in given]
    strategy = prompt.overrides.get("mask_strategy", strategies.get(prompt.index, ""))
    if not isinstance(strategy, str):
        raise ConfigError(f"prompt {prompt.index}: mask_strategy must be text, got {strategy!r}")
    try:
        for name, value in (("reference_path", texts), ("mask_strategy", strategy)):
            if value:
                refuse(own, name)
        infos = tuple(check_reference(resolve_reference(text, folder)) for text in texts)
        if infos and not strategy:
            strategy = default_mask_strategy([info.kind == "video" for info in infos], latents_per_chunk(own))
        check_mask_strategy(strategy, len(infos))
        known = [latent_frames(info.frames, own) if info.frames else None for info in infos]
        check_placement(strategy, latent_frames(own.num_frames, own), known, own.align, own.loop)
        hashes = tuple(sha256_of(info.path) for info in infos)
    except ValueError as error:
        raise ConfigError(f"prompt {prompt.index}: {shortened(error, 500)}") from error
    return infos, hashes, strategy
