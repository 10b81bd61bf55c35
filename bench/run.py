"""Measure clip by clip, all points of a clip in an order that rotates, as much as fits into the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.costs import Costs
from bench.log import BenchLog, VideoRow
from bench.measure import Meter, cost_values, references_of, step_records
from bench.points import BenchPoint
from bench.sampler import Sampled, Sampler
from bench.setting import BenchClip
from bench.showcase import Showcase

_GOLDEN = 0.618  # share of the points by which the order rotates from clip to clip, which spreads places evenly


@dataclass(frozen=True)
class Work:
    """What is to be measured, and how much of it is done.

    Attributes:
        references: the uncached run and the one of many steps.
        points: all others, in the plan's order.
        clips: all prompts under their first seed, then under their second.
    """

    references: tuple[BenchPoint, BenchPoint]
    points: tuple[BenchPoint, ...]
    clips: tuple[BenchClip, ...]
    log: BenchLog
    showcase: Showcase

    def missing(self, clip: BenchClip) -> list[BenchPoint]:
        """Return the points, including references, that are still to be run for a clip.

        If the uncached run is one of them, so are those that were to be compared with its time.
        """
        everything = (*self.references, *self.points)
        missing = [point for point in everything if not self._is_done(clip, point)]
        if self.references[0] not in missing:
            return missing
        return [point for point in everything if point in missing or self.log.get(clip, point).uncached_seconds is None]

    def finished_clips(self) -> list[BenchClip]:
        """Return the clips whose videos have all been measured."""
        everything = (*self.references, *self.points)
        return [clip for clip in self.clips if all(self.log.get(clip, point) is not None for point in everything)]

    def commits(self, clips: Sequence[BenchClip]) -> list[str]:
        """Return the commits that the videos of some clips were measured at, each once."""
        everything = (*self.references, *self.points)
        rows = (self.log.get(clip, point) for clip in clips for point in everything)
        return list(dict.fromkeys(row.commit for row in rows if row is not None and row.commit))

    def _is_done(self, clip: BenchClip, point: BenchPoint) -> bool:
        row = self.log.get(clip, point)
        if row is None:
            return False
        return not self.showcase.has(clip, point) or (row.steps is not None and not self.showcase.lacks(clip, point))


class BenchRun:
    """Measures all missing videos of some work; every finished one is logged at once.

    Args:
        timesteps: returns the scheduler's times of a run for its number of steps (None: the config's own).
        finished: called after every video with the name of its policy.
    """

    def __init__(
        self,
        work: Work,
        sampler: Sampler,
        meter: Meter,
        costs: Costs,
        timesteps: Callable[[int | None], Sequence[float]],
        finished: Callable[[str], object],
    ) -> None:
        self._work = work
        self._sampler = sampler
        self._meter = meter
        self._costs = costs
        self._timesteps = timesteps
        self._finished = finished

    def run(self, deadline: float | None = None) -> bool:
        """Run what is missing; return False if it stopped between two clips because time was up.

        `deadline` is a time of `time.monotonic()`. Except for the first clip, none is begun that would take longer
        than the time left.
        """
        longest = 0.0
        for index, clip in enumerate(self._work.clips):
            missing = self._work.missing(clip)
            if not missing:
                continue
            started = time.monotonic()
            if deadline is not None and longest and started + longest > deadline:
                return False
            self._run_clip(clip, missing, index)
            longest = max(longest, time.monotonic() - started)
        return True

    def _run_clip(self, clip: BenchClip, missing: Sequence[BenchPoint], index: int) -> None:
        """Run both references, as all others need their frames, then what is missing.

        The run without reuse is timed again among the others: at the beginning of every clip, the machine would not be
        in the same state. If it was timed in an earlier session, those of this one have a time of their own to compare
        with.
        """
        uncached, exact = self._work.references
        sampled = {point: self._sampler.sample(point, clip.clip) for point in (uncached, exact)}
        frames = {point.policy: video.frames for point, video in sampled.items()}
        seconds = None if uncached in missing else self._sampler.sample(uncached, clip.clip).denoise_seconds
        if exact in missing:
            self._keep(clip, exact, sampled[exact], frames, seconds)
        for point in turned([point for point in (uncached, *self._work.points) if point in missing], index):
            self._keep(clip, point, self._sampler.sample(point, clip.clip), frames, seconds)

    def _keep(
        self,
        clip: BenchClip,
        point: BenchPoint,
        sampled: Sampled,
        references: Mapping[str, np.ndarray],
        uncached_seconds: float | None = None,
    ) -> None:
        """Measure a video and log the result."""
        shown = self._work.showcase.has(clip, point)
        if shown:
            self._work.showcase.write(clip, point, sampled.frames, self._sampler.pipe.config.save_fps)
        quality = self._meter.quality(sampled.frames, clip.prompt, references_of(point, references))
        self._work.log.add(
            VideoRow(
                prompt=clip.prompt,
                seed=clip.seed,
                point=point.key,
                options=point.digest,
                values={**cost_values(point, sampled, self._costs), **quality},
                steps=step_records(sampled.trace, self._timesteps(point.num_steps)) if shown else None,
                uncached_seconds=uncached_seconds,
            )
        )
        self._finished(point.policy)


def turned(points: Sequence[BenchPoint], index: int) -> list[BenchPoint]:
    """Return the points in their order, starting at another one for every clip, so that drifts hit all alike."""
    if not points:
        return []
    start = round(index * _GOLDEN * len(points)) % len(points)
    return [*points[start:], *points[:start]]
