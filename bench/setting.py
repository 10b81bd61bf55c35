"""What a bench runs on: the sampling config without its cache, the clips, and what results depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adacache.calibration.plan import Clip
from bench.plan import BenchPlan
from opensora.cli.identity import influences
from opensora.config.loading import load_without_cache
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError
from opensora.files import find_path
from opensora.prompts.run_prompts import plain_texts

logger = logging.getLogger(__name__)

MACHINE = ("cpu", "threads", "gpu", "torch")  # what speed depends on
SEEDS_APART = 1000  # between the clips of a prompt, so that no two clips of a bench share their noise
TUNING_SHARE = 3  # without a file of tuning prompts, the last third of the prompts is kept for tuning


@dataclass(frozen=True)
class BenchClip:
    """One prompt under one seed; `prompt_index` counts prompts from 0 and `draw` the seeds of a prompt."""

    prompt_index: int
    draw: int
    prompt: str

    @property
    def seed(self) -> int:
        """Seed of its noise."""
        return SEEDS_APART * (self.draw + 1) + self.prompt_index

    @property
    def clip(self) -> Clip:
        """The clip as it is sampled."""
        return Clip(self.prompt, self.seed)


def load_sample_config(plan: BenchPlan, device: str | None = None) -> SampleConfig:
    """Load the plan's sampling config, with every step computed.

    Raises:
        ConfigError: it cannot be read, or a budget is not below its number of steps.
    """
    config = load_without_cache(plan.sample, {"device": device}, plan.sample_options)
    steps = config.scheduler.num_model_calls
    most = max(plan.budgets, default=0)
    if most >= steps:
        raise ConfigError(f"budgets: {most} computed steps leave nothing to reuse, as {plan.sample} has {steps} steps")
    return config


def bench_prompts(plan: BenchPlan, config: SampleConfig) -> tuple[list[str], list[str]]:
    """Return the prompts that are measured, and those that budgets are tuned on; no prompt is both.

    Raises:
        ConfigError: there are too few, or a file cannot be read.
    """
    strict = plan.prompts is not None
    prompts = _read(config, plan.prompts)
    tuning = [] if plan.tuning_prompts is None else _read(config, plan.tuning_prompts)
    given = len(prompts)
    if not tuning:
        kept = min(plan.num_prompts, len(prompts) - max(1, len(prompts) // TUNING_SHARE))
        prompts, tuning = prompts[:kept], prompts[kept:]
    if not prompts or (strict and len(prompts) < plan.num_prompts):
        raise ConfigError(
            f"prompts: {plan.num_prompts} are wanted, but {plan.prompts or config.path} has {given}, of which "
            f"{given - len(prompts)} are kept to tune on; set num_prompts (--prompts N), or give more prompts or a "
            "file of tuning prompts"
        )
    if len(prompts) < plan.num_prompts:
        logger.warning("%s has prompts for %d to measure, beside those to tune on", config.path, len(prompts))
    prompts = prompts[: plan.num_prompts]
    return prompts, [prompt for prompt in tuning if prompt not in prompts]


def bench_clips(prompts: Sequence[str], num_seeds: int) -> list[BenchClip]:
    """Return all prompts under their first seed, then all under their second: a cut leaves prompts balanced."""
    return [BenchClip(index, draw, prompt) for draw in range(num_seeds) for index, prompt in enumerate(prompts)]


def tuning_clips(prompts: Sequence[str], count: int) -> list[Clip]:
    """Return `count` clips with seeds that no measured clip has.

    Raises:
        ConfigError: there is no prompt.
    """
    if not prompts:
        raise ConfigError("tuning_prompts: there is no prompt to tune on that is not measured, too; give another file")
    return [Clip(prompts[i % len(prompts)], i) for i in range(count)]


def digest(values: Any) -> str:
    """Return a short hash of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def path_of_setting(path: Path, setting: str) -> Path:
    """Return where a file of the setting with this digest is kept while one of another setting is in its place."""
    return path.with_name(f"{path.stem}-{setting}{path.suffix}")


def setting_of(
    config: SampleConfig, weights: Mapping[str, str], plan: BenchPlan, machine: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what measured numbers depend on besides clip and policy, by names that a message can use.

    `weights` are fingerprints by piece.
    """
    entries = influences(config)
    return {
        "weights": [weights[piece] for piece in ("model", "text_encoder")],
        "autoencoder": {"weights": weights["vae"], **entries.pop("vae")},
        **{name.replace("_", " "): value for name, value in entries.items()},
        "exact steps": [plan.exact_steps, plan.exact_solver],
        "machine": {key: machine[key] for key in MACHINE},
    }


def _read(config: SampleConfig, path: str | None) -> list[str]:
    """Read the prompts of a file, or the config's own, each once."""
    if path is not None:
        if find_path(path) is None:
            raise ConfigError(f"prompts: there is no file '{path}'")
        config = dataclasses.replace(config, prompt=None, prompt_path=path, start_index=0, end_index=None)
    return list(dict.fromkeys(plain_texts(config)))
