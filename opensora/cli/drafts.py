"""Draft, then final: which seeds a run samples, and what a draft run leaves to choose from."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adacache.atomic import atomic_path
from opensora.config.draft import parse_seed
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError
from opensora.files import REPO_ROOT
from opensora.prompts.run_prompts import MAX_SEED, NumberedPrompt

if TYPE_CHECKING:
    from opensora.cli.result import SampleResult

SAMPLE_SEED_OFFSET = 2**20  # between samples of one prompt, so that they share no noise with those of other prompts
MAX_STRIPS = 24  # in one sheet; with more drafts, every prompt has its own

# Entries of a draft run that its final run must not repeat, as flags or by --cfg-options.
_DRAFT_ENTRIES = ("draft", "speedup", "max_steps_computed", "min_psnr")
_DRAFT_FLAGS = tuple(f"--{name.replace('_', '-')}" for name in _DRAFT_ENTRIES)


def planned_samples(config: SampleConfig, prompts: Sequence[NumberedPrompt]) -> list[NumberedPrompt]:
    """Every prompt under every seed that the run samples it with.

    Drafts count up from the prompt's usual seed. Final seeds belong to every prompt, or by "2:1027" to prompt 2 only;
    prompts without any are left out.

    Raises:
        ConfigError: a final seed for a prompt that the run has not, or a seed that is too large.
    """
    samples = _samples(config, prompts)
    largest = max(sample.seed for sample in samples)
    if largest > MAX_SEED:
        raise ConfigError(f"seed {largest} is too large; the largest one is {MAX_SEED}")
    return samples


def _samples(config: SampleConfig, prompts: Sequence[NumberedPrompt]) -> list[NumberedPrompt]:
    if config.draft is not None:
        return [replace(prompt, seed=prompt.seed + i) for prompt in prompts for i in range(config.draft)]
    if config.final is None:
        return [
            replace(prompt, number=k, seed=prompt.seed + k * SAMPLE_SEED_OFFSET)
            for prompt in prompts
            for k in range(config.num_sample)
        ]
    chosen = [parse_seed(text) for text in config.final]
    known = [prompt.index for prompt in prompts]
    for index, seed in chosen:
        if index not in (None, *known):
            numbers = f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
            raise ConfigError(f"final {index}:{seed}: the run has no prompt {index}, only {numbers}")
    return [
        replace(prompt, seed=seed)
        for prompt in prompts
        for seed in dict.fromkeys(seed for index, seed in chosen if index in (None, prompt.index))
    ]


def write_overview(results: Sequence[SampleResult]) -> list[Path]:
    """Write ``drafts.json`` and contact sheets beside the drafts, the least risky one of each prompt first.

    The sheets are returned: one, ``drafts.png``, or one per prompt, ``drafts_0003.png``, where there are many drafts.
    """
    folder = results[0].video.parent
    by_prompt = _by_prompt(results)
    with atomic_path(folder / "drafts.json") as temporary:
        entries = [_entry(result) for drafts in by_prompt for result in drafts]
        text = json.dumps({"drafts": entries}, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    if len(results) <= MAX_STRIPS or len(by_prompt) == 1:
        return [_save(by_prompt, folder / "drafts.png")]
    return [_save([drafts], folder / f"drafts_{drafts[0].prompt.index:04d}.png") for drafts in by_prompt]


def final_command(arguments: Sequence[str], results: Sequence[SampleResult]) -> str:
    """The command that renders the least risky draft of every prompt well, for a shell in the working directory.

    Args:
        arguments: those of the draft run.
    """
    best = [drafts[0].prompt for drafts in _by_prompt(results)]
    seeds = [f"{prompt.seed}" if len(best) == 1 else f"{prompt.index}:{prompt.seed}" for prompt in best]
    script = REPO_ROOT / "run_sample_video.sh"
    if script.is_relative_to(Path.cwd()):
        script = script.relative_to(Path.cwd())
    return shlex.join(["bash", str(script), *_without_draft_flags(arguments), "--final", *seeds])


def _by_prompt(results: Sequence[SampleResult]) -> list[list[SampleResult]]:
    """Drafts prompt by prompt, the least risky first; without a measurement they come last."""

    def order(result: SampleResult) -> tuple[int, float, int]:
        return result.prompt.index, math.inf if result.risk is None else result.risk, result.prompt.seed

    return [list(drafts) for _, drafts in groupby(sorted(results, key=order), lambda result: result.prompt.index)]


def _entry(result: SampleResult) -> dict[str, Any]:
    known = result.risk is not None and math.isfinite(result.risk)  # JSON knows no infinity
    return {
        "prompt_index": result.prompt.index,
        "prompt": result.prompt.text,
        "seed": result.prompt.seed,
        "file": result.video.name,
        "risk": result.risk if known else None,
        "num_computed": result.num_computed,
        "num_steps": result.num_steps,
    }


def _save(by_prompt: Sequence[Sequence[SampleResult]], path: Path) -> Path:
    from opensora.cli.run_sheet import MARGIN, prompt_grid
    from opensora.datasets.contact_sheet import save_sheet

    save_sheet([prompt_grid(drafts, [_note(draft) for draft in drafts]) for drafts in by_prompt], path, MARGIN)
    return path


def _note(draft: SampleResult) -> str:
    from opensora.cli.run_sheet import steps_note

    risk = "no risk measured" if draft.risk is None else f"risk {draft.risk:.4f}"
    return f"{risk}, {steps_note(draft)}"


def _without_draft_flags(arguments: Sequence[str]) -> list[str]:
    kept, skip, options = [], False, False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        options = name == "--cfg-options" or (options and not argument.startswith("--"))
        if skip or name in _DRAFT_FLAGS:
            skip = not skip and not equals  # the value follows
        elif not (options and name in _DRAFT_ENTRIES):
            kept.append(argument)
    # The flag cannot stand without any option.
    following = [*kept[1:], "--"]
    return [
        argument
        for argument, after in zip(kept, following, strict=False)
        if argument != "--cfg-options" or not after.startswith("--")
    ]
