"""One bench in its folder, from tuning to the result files, with its progress bars."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from adacache.calibration.runner import Runner
from bench.costs import to_count, warm_up
from bench.log import BenchLog
from bench.machine import machine_info
from bench.measure import Meter
from bench.output import LOG, TUNED, markdown_tables, origin, terminal_tables, write_bench
from bench.plan import BenchPlan
from bench.points import check_options, references
from bench.run import BenchRun, Work
from bench.sampler import Sampler
from bench.setting import MACHINE, BenchClip, bench_clips, digest, setting_of, tuning_clips
from bench.showcase import make_showcase
from bench.summary import summarize
from bench.tuner import TunedFile, Tuner
from opensora.cli.calibrate import PipelineClips
from opensora.cli.identity import weight_fingerprints
from opensora.config.schema import SampleConfig
from opensora.config.target import timesteps_of
from opensora.device import limit_threads
from opensora.errors import ConfigError
from opensora.files import make_output_folder
from opensora.pipeline import SamplingPipeline
from opensora.weights import locate_weights
from opensora.weights.download import download_missing

logger = logging.getLogger(__name__)

TUNING_SHARE = 0.4  # of the time that is left


class Bench:
    """One bench in its folder; the model is loaded when it is first needed.

    Args:
        config: the plan's sampling config, without a cache.
        prompts, tuning: prompts that are measured, and those that budgets are tuned on.
        command: the command line, for readers of the results.

    Raises:
        ConfigError: options of a policy, the device or the folder cannot be used.
        WeightsError: weights are missing, unreachable or damaged.
    """

    def __init__(
        self,
        plan: BenchPlan,
        config: SampleConfig,
        prompts: Sequence[str],
        tuning: Sequence[str],
        folder: Path,
        command: str,
    ) -> None:
        check_options(plan, config)
        self._folder = make_output_folder(folder, "--output")
        self.plan = plan
        self._prompts = prompts
        self._tuning_clips = tuning_clips(tuning, plan.tuning_clips)
        weights = download_missing(locate_weights(config))
        self._weights, self._config = weight_fingerprints(weights), weights.applied_to(config)
        self._machine, self._commit = machine_info(config.device)
        self._command = command
        self._left_out: list[str] = []
        self._work: Work | None = None
        self._meter = Meter()

    def measure(self, deadline: float | None = None) -> None:
        """Tune, warm up, and measure what is missing; `deadline` is a time of `time.monotonic()`.

        Raises:
            KeyboardInterrupt: the user interrupts; what is finished is kept.
        """
        self._work = work = self._prepare(deadline)
        missing = sum(len(work.missing(clip)) for clip in work.clips)
        if not missing:
            return
        with ticking("warming up", 1 + len(to_count(work.points))) as finished:
            costs = warm_up(self._sampler, work.points, work.clips[0].clip, finished)
        points = len(work.points) + len(work.references)
        logger.info("%d clips x %d points: %d videos to go", len(work.clips), points, missing)
        with ticking("videos", missing) as finished:
            run = BenchRun(work, self._sampler, self._meter, costs, self._timesteps, finished)
            in_time = run.run(deadline)
        if not in_time:
            self._left_out.append(f"Time was up after {len(work.finished_clips())} of {len(work.clips)} clips.")

    def finish(self, as_markdown: bool = False) -> str | None:
        """Write the results of all finished clips, and return their tables; None if there are no results yet."""
        if self._work is None:
            logger.warning("there are no results yet, as policies are not all tuned; run the same command again")
            return None
        clips = self._work.finished_clips()
        if not clips:
            logger.warning("no clip is complete yet, so there is nothing to compare; run the same command again")
            return None
        known = {} if self._is_loaded else origin(self._folder)
        # The log is that of this machine in what speed depends on; the file beside it may be another's.
        is_of_log = known and all(known["machine"].get(key) == self._machine[key] for key in MACHINE)
        details = self._details(clips) | (known if is_of_log else {})
        if commits := self._work.commits(clips):
            details["commit"] = ", ".join(commits)
        bench = summarize(self.plan, self._work, clips, self._num_steps, details)
        write_bench(bench, self._work, clips, self._folder)
        logger.info("wrote %s/bench.json, videos.csv, index.html and quality.png", self._folder)
        return markdown_tables(bench) if as_markdown else terminal_tables(bench)

    def _prepare(self, deadline: float | None) -> Work:
        """Return all points, tuned in a share of the time that is left, with the log of their finished videos."""
        setting = setting_of(self._config, self._weights, self.plan, self._machine)
        # Tuning decodes nothing.
        tuned_on = {
            **{key: value for key, value in setting.items() if key not in ("machine", "exact steps", "autoencoder")},
            "clips": [dataclasses.astuple(clip) for clip in self._tuning_clips],
        }
        file = TunedFile(self._folder / TUNED, tuned_on)
        until = math.inf if deadline is None else time.monotonic() + TUNING_SHARE * (deadline - time.monotonic())
        with ticking("tuning", self.plan.num_searches, "setting") as finished:

            def make_runner() -> Runner:
                return Runner(PipelineClips(self._sampler.pipe), self.plan.batch_size, lambda _: None)

            tuner = Tuner(self.plan, self._config, make_runner, self._tuning_clips, file, finished, until)
            points = tuner.points()
        self._left_out += tuner.left_out
        if not points:
            raise ConfigError(f"{self.plan.path}: there is nothing to run; {' '.join(tuner.left_out)}")
        both = references(self.plan.exact_steps, self.plan.exact_solver)
        showcase = make_showcase(self._folder, self.plan, both, points, self._num_steps, digest(setting))
        clips = tuple(bench_clips(self._prompts, self.plan.num_seeds))
        log = BenchLog(self._folder / LOG, setting, self._commit)
        return Work(both, tuple(points), clips, log, showcase)

    @cached_property
    def _sampler(self) -> Sampler:
        """The loaded model; a bench that has nothing left to run does not load it."""
        pipe = SamplingPipeline.from_config(self._config)
        limit_threads(pipe.model)
        self._machine["threads"] = torch.get_num_threads()
        return Sampler(pipe)

    @property
    def _is_loaded(self) -> bool:
        return "_sampler" in vars(self)

    @property
    def _num_steps(self) -> int:
        return self._config.scheduler.num_model_calls

    def _timesteps(self, num_steps: int | None) -> Sequence[float]:
        scheduler = self._config.scheduler
        if num_steps is not None:
            scheduler = dataclasses.replace(scheduler, num_sampling_steps=num_steps)
        return timesteps_of(dataclasses.replace(self._config, scheduler=scheduler))

    def _details(self, clips: Sequence[BenchClip]) -> dict[str, Any]:
        """Return the entries of bench.json that say where, when and on what it was measured."""
        config = self._config
        self._meter.note_size(config.height, config.width)
        return {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": self._commit,
            "machine": self._machine,
            "command": self._command,
            "setting": {
                "config": self.plan.sample,
                "num_steps": self._num_steps,
                "exact_steps": self.plan.exact_steps,
                "exact_solver": self.plan.exact_solver or config.scheduler.solver,
                "height": config.height,
                "width": config.width,
                "num_frames": config.num_frames,
                "fps": config.save_fps,
                "guidance_scale": config.scheduler.cfg_scale,
                "solver": config.scheduler.solver,
                "dtype": config.dtype,
                "num_prompts": len({clip.prompt_index for clip in clips}),
                "num_seeds": len({clip.draw for clip in clips}),
                "tuning_clips": self.plan.tuning_clips,
                "budgets": sorted({point.budget for point in self._work.points} & set(self.plan.budgets)),
            },
            "left_out": [*self._left_out, *_few_prompts(clips), *self._meter.notes],
        }


def _few_prompts(clips: Sequence[BenchClip]) -> list[str]:
    """Return a sentence if there is one prompt only, so that intervals over prompts mean nothing."""
    if len({clip.prompt_index for clip in clips}) > 1:
        return []
    return ["One prompt gives no interval: those that are shown have no width and mean nothing."]


@contextmanager
def ticking(what: str, total: int, unit: str = "video") -> Iterator[Callable[[str], object]]:
    """Show a progress bar; yield a function to be called after every `unit` with the name of its policy."""
    with tqdm(desc=what, total=total, unit=unit) as bar:

        def finished(policy: str) -> None:
            bar.set_postfix_str(policy, refresh=False)
            bar.update()

        yield finished
