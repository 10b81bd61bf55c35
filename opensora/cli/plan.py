"""What a run will sample, decided before anything heavy is imported.

A `Sample` stands for one video throughout a run: the plan says what it is, the session whether it is due, and whoever
makes it what became of it.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from opensora.conditioning.references import (
    ReferenceInfo,
    check_reference,
    fitting_mask_strategy,
    resolve_reference,
    sha256_of,
    split_references,
)
from opensora.config.model_families import refuse
from opensora.config.schema import SampleConfig
from opensora.config.target import parse_seed
from opensora.errors import ConfigError, shortened
from opensora.files import find_path
from opensora.prompts.files import Prompt
from opensora.prompts.run_prompts import MAX_SEED, chosen_prompts
from opensora.prompts.syntax import sample_stem
from opensora.weights import WeightPaths

# (overrides of one prompt, what errors about them begin with) -> the config of that prompt's samples.
LineConfig = Callable[[Mapping[str, Any], str], SampleConfig]

SAMPLE_SEED_OFFSET = 2**20  # between samples of one prompt, so that they share no noise with those of other prompts

_NOT_CONFIG = ("reference_path", "mask_strategy", "name")  # overrides that are not entries of the config
# Stems whose files would take the names of the ledger and other files of a run, or those of another sample's files.
_TAKEN = re.compile(
    r"manifest|drafts.*|contact_sheet|.*\.(trace|plot|frames|preview|loop\d+|page\d+)", re.IGNORECASE | re.DOTALL
)
# If several files have a prompt's name, the first kind here is taken: a video comes before its own animated preview.
_REFERENCE_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif"),
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """A finished sample.

    Attributes:
        seconds: from noise to pixels.
        num_steps: calls of the model in all loops.
        num_computed: how many of them were computed, not reused.
        saving: estimated share of the time that was saved; None without a cache, or where it is not known.
        surprises: what a user of the cache would not expect, one sentence each.
    """

    video: Path
    seconds: float
    num_steps: int
    num_computed: int
    saving: float | None = None
    surprises: tuple[str, ...] = ()


@dataclass(slots=True)
class Sample:
    """One video of a run.

    Attributes:
        index: place of its prompt in the list or file.
        number: which of several samples of this prompt it is.
        config: the run's config with the overrides of the prompt's own line.
        stem: start of its files' names, without suffix.
        references: images and videos it is conditioned on.
        reference_hashes: SHA-256 of their files.
        mask_strategy: where the references go; "" without references.
        problem: why it cannot be made, in one sentence; None while it can.
        identity: hash of all that decides how it looks; "" until the weights are known.
        is_due: whether it can be made and is not finished.
        refined: the prompt as a language model rewrote it.
        result: None until it is finished.
    """

    index: int
    prompt: str
    seed: int
    config: SampleConfig
    number: int = 0
    stem: str = ""
    references: tuple[ReferenceInfo, ...] = ()
    reference_hashes: tuple[str, ...] = ()
    mask_strategy: str = ""
    problem: str | None = None
    identity: str = ""
    is_due: bool = False
    refined: str | None = None
    result: Result | None = None

    @property
    def text(self) -> str:
        """The text that the video is made from: the prompt, or its version by a language model."""
        return self.prompt if self.refined is None else self.refined


@dataclass
class Plan:
    """What a run is to make, as each of its processes knows it.

    Attributes:
        weights: where they are; all on this machine once the output folder is open.
        fingerprints: hashes of the weights by piece; empty until the folder is open.
        folder: where the files go; None until it is open.
    """

    config: SampleConfig
    samples: Sequence[Sample]
    weights: WeightPaths
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.batches = make_batches(self.samples)

    @property
    def due_batches(self) -> list[list[Sample]]:
        """Batches with at least one sample that is due."""
        return [batch for batch in self.batches if any(sample.is_due for sample in batch)]


def make_batches(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Group the samples that can be made into batches of neighbors with the same settings.

    Batches depend on the plan alone, not on what is finished: rounding differs between batches of different sizes, and
    a continued run must give the same bytes as one that was never interrupted.
    """
    usable = [sample for sample in samples if sample.problem is None]
    batches = []
    for config, group in groupby(usable, key=lambda sample: sample.config):
        alike = list(group)
        batches += [alike[start : start + config.batch_size] for start in range(0, len(alike), config.batch_size)]
    return batches


def distinct_configs(samples: Sequence[Sample]) -> list[SampleConfig]:
    """Return each config of the samples once; samples with the same settings share one object."""
    return list({id(sample.config): sample.config for sample in samples}.values())


def plan_samples(config: SampleConfig, prompts: Sequence[Prompt], line_config: LineConfig) -> list[Sample]:
    """Return the samples of a run in order, those with a problem included as long as any sample can be made.

    Args:
        prompts: all prompts of the list or file.
        line_config: makes the config of a prompt with overrides; called once for each set of overrides.

    Raises:
        ConfigError: no sample at all can be made, or references and prompts do not pair up.
    """
    stems = prompt_stems(config, prompts)  # a name does not depend on the chosen part of a file
    prompts = chosen_prompts(config, prompts)
    samples = seeded_samples(config, prompts)
    references = _references_by_index(config, prompts)
    strategies = _one_for_all_or_each("mask_strategy", config.mask_strategy or (), prompts)
    file = None if config.prompt_path is None else (find_path(config.prompt_path) or Path(config.prompt_path))
    by_index = {prompt.index: prompt for prompt in prompts}
    configs: dict[str, SampleConfig] = {}
    checked: dict[str, tuple[ReferenceInfo, str]] = {}
    for sample in samples:
        prompt = by_index[sample.index]
        sample.stem = stems[sample.index] + _ending(sample)
        if sample.problem is not None:
            continue
        try:
            own = _config_of(prompt, config, line_config, configs)
            paths = prompt.overrides.get("reference_path", references.get(prompt.index, ""))
            strategy = prompt.overrides.get("mask_strategy", strategies.get(prompt.index, ""))
            if paths or strategy:
                folder = file.parent if file is not None and "reference_path" in prompt.overrides else None
                _add_conditions(sample, own, paths, strategy, folder, checked)
            sample.config = own
        except ValueError as error:
            sample.problem = str(error)
    if all(sample.problem for sample in samples):
        raise ConfigError(samples[0].problem)
    return samples


def seeded_samples(config: SampleConfig, prompts: Sequence[Prompt]) -> list[Sample]:
    """Return a sample for every prompt and every seed that the run samples it with.

    Drafts count up from the prompt's usual seed. A final seed is for every prompt or, written "2:1027", for prompt 2
    only; prompts without any are left out.

    Raises:
        ConfigError: a final seed is for a prompt that the run does not have, or a seed is too large.
    """
    seeds = _seeds_of(config, prompts)
    is_numbered = config.draft is None and config.final is None  # seeds tell the others apart
    samples = [
        Sample(prompt.index, prompt.text, seed, config, k if is_numbered else 0, problem=prompt.problem)
        for prompt in prompts
        for k, seed in enumerate(seeds(prompt))
    ]
    largest = max(sample.seed for sample in samples)
    if largest > MAX_SEED:
        raise ConfigError(f"seed {largest} is too large; the largest one is {MAX_SEED}")
    return samples


def _seeds_of(config: SampleConfig, prompts: Sequence[Prompt]) -> Callable[[Prompt], list[int]]:
    if config.draft is not None:
        return lambda prompt: [prompt.seed + i for i in range(config.draft)]
    if config.final is None:
        return lambda prompt: [prompt.seed + k * SAMPLE_SEED_OFFSET for k in range(config.num_sample)]
    known = {prompt.index for prompt in prompts}
    chosen: dict[int | None, list[tuple[int, int]]] = defaultdict(list)  # prompt index -> (place in `final`, seed)
    for place, (index, seed) in enumerate(map(parse_seed, config.final)):
        if index is not None and index not in known:
            first, last = prompts[0].index, prompts[-1].index
            numbers = f"{first}" if first == last else f"{first} to {last}"
            raise ConfigError(f"final {index}:{seed}: the run has no prompt {index}, only {numbers}")
        chosen[index].append((place, seed))
    return lambda prompt: list(dict.fromkeys(seed for _, seed in sorted(chosen[None] + chosen.get(prompt.index, []))))


def prompt_stems(config: SampleConfig, prompts: Sequence[Prompt]) -> dict[int, str]:
    """Return by prompt index how the file names of the prompt's samples begin.

    Prompts that begin alike get their index appended. A name that the prompt's own line sets is taken as it is, unless
    other files of the run have it.

    Args:
        prompts: all prompts of the list or file.
    """
    stems = {
        prompt.index: prompt.overrides.get("name")
        or sample_stem(config.sample_name, prompt.index, prompt.text if config.prompt_as_path else None)
        for prompt in prompts
    }
    counts = Counter(stem.casefold() for stem in stems.values())  # some file systems do not tell case apart
    seen: set[str] = set()
    for index, base in stems.items():
        is_free = counts[base.casefold()] == 1 and not _TAKEN.fullmatch(base)
        stem = base if is_free else f"{base}_{index:04d}"
        while stem.casefold() in seen:  # the index made a name that another prompt has
            stem = f"{stem}_{index:04d}"
        seen.add(stem.casefold())
        stems[index] = stem
    return stems


def _ending(sample: Sample) -> str:
    """Return what tells the samples of one prompt apart: the seed for drafts and finals, else the number."""
    config = sample.config
    if config.draft is not None or config.final is not None:
        return f"_seed{sample.seed}"
    return "" if config.num_sample == 1 else f"-{sample.number}"


def _config_of(
    prompt: Prompt, config: SampleConfig, line_config: LineConfig, known: dict[str, SampleConfig]
) -> SampleConfig:
    """Return the config of one prompt; prompts with the same overrides share one object."""
    overrides = {name: value for name, value in prompt.overrides.items() if name not in _NOT_CONFIG}
    if not overrides:
        return config
    key = repr(sorted(overrides.items()))
    if key not in known:
        where = f"prompt {prompt.index}" + (f" (line {prompt.line} of {config.prompt_path})" if prompt.line else "")
        own = line_config(overrides, where)
        known[key] = dataclasses.replace(own, batch_size=config.batch_size)
    return known[key]


def _add_conditions(
    sample: Sample,
    config: SampleConfig,
    given: str | Sequence[object],
    strategy: str,
    folder: Path | None,
    checked: dict[str, tuple[ReferenceInfo, str]],
) -> None:
    """Set the references of one sample, their hashes, and the mask strategy.

    Args:
        given: reference paths, as text or as a list.
        folder: of the prompt file, where relative paths of its own lines are looked up first.
        checked: path -> references that were read before, with their hashes.

    Raises:
        ConfigError: a reference is missing or cannot be read, or the strategy does not fit.
    """
    texts = split_references(given) if isinstance(given, str) else [str(text) for text in given]
    if not isinstance(strategy, str):
        raise ConfigError(f"prompt {sample.index}: mask_strategy must be text, got {strategy!r}")
    try:
        for name, value in (("reference_path", texts), ("mask_strategy", strategy)):
            if value:
                refuse(config, name)
        for path in (resolve_reference(text, folder) for text in texts):
            if str(path) not in checked:
                info = check_reference(path)
                checked[str(path)] = info, sha256_of(info.path)
            info, digest = checked[str(path)]
            sample.references += (info,)
            sample.reference_hashes += (digest,)
        sample.mask_strategy = fitting_mask_strategy(strategy, sample.references, config)
    except ValueError as error:
        raise ConfigError(f"prompt {sample.index}: {shortened(error, 500)}") from error


def _references_by_index(config: SampleConfig, prompts: Sequence[Prompt]) -> dict[int, str]:
    """Return by prompt index the references, "a.png;b.mp4" for two, by an explicit list or by the files' names.

    A single folder is searched for files named like the samples (by the name that the prompt's line sets, as
    `sample_0003.png`, `0003.png` or `3.png` for prompt 3, or as `--prompt-as-path` names it), never by its order. Where
    a file is missing, its path is returned all the same, to be reported with its prompt.

    Raises:
        ConfigError: there are several entries, but not one per prompt.
    """
    entries = config.reference_path or ()
    if len(entries) == 1 and (folder := find_path(entries[0])) is not None and folder.is_dir():
        files = os.listdir(folder)
        there = {name.casefold(): name for name in files} | {name: name for name in files}
        return {prompt.index: str(folder / _file_of(prompt, config.sample_name, there)) for prompt in prompts}
    return _one_for_all_or_each("reference_path", entries, prompts)


def _one_for_all_or_each(name: str, entries: Sequence[str], prompts: Sequence[Prompt]) -> dict[int, str]:
    """Return by prompt index one entry for all prompts, or one for each; any other number is a ConfigError."""
    indices = [prompt.index for prompt in prompts]
    if len(entries) <= 1:
        return dict.fromkeys(indices, *entries) if entries else {}
    if len(entries) != len(indices):
        folder = ", or --reference-path FOLDER with files named like the samples" if name == "reference_path" else ""
        raise ConfigError(
            f"{name} has {len(entries)} entries for {len(indices)} prompts; give one per prompt (separate several of "
            f"one prompt by ';') or one for all{folder}"
        )
    return dict(zip(indices, entries, strict=True))


def _file_of(prompt: Prompt, sample_name: str | None, there: Mapping[str, str]) -> str:
    """Return the file name that belongs to a prompt, or the one that was expected.

    Args:
        there: name of every file by itself and by its casefolded form.
    """
    index = prompt.index
    names = [prompt.overrides["name"]] if prompt.overrides.get("name") else []
    names += [sample_stem(sample_name, index)]
    names += [f"sample_{index:04d}", f"{index:04d}", f"{index}"]
    names += [sample_stem(sample_name, index, prompt.text)]
    exact = [f"{name}{suffix}" for name in names for suffix in _REFERENCE_SUFFIXES]
    files = (file for name in exact for file in (name, name.casefold()))
    return next((there[file] for file in files if file in there), f"{names[0]}.png")
