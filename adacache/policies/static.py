"""A schedule written down beforehand: the control that an adaptive policy has to beat."""

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from adacache.options import BridgeConfig
from adacache.policies.base import Measurement, Policy, PolicyConfig, Report
from adacache.sites import Metric, SiteGroup, check_blocks_fit, metric_sites, read_metric_blocks
from adacache.trace import Trace
from adacache.validation import check_count, whole_numbers


@dataclass(frozen=True)
class StaticScheduleConfig(PolicyConfig):
    """Which steps are computed, whatever the video shows; `computed_steps` are 0-based and begin with 0.

    `num_sampling_steps` is the number of steps that the schedule was made for; None leaves it open.

    With a `metric`, the distances of its residuals in `metric_blocks` go into the trace, and with `motion_strides` also
    the motion scores (`adacache.meters`) between frames that far apart; they decide nothing. None measures nothing.

    Raises:
        ValueError: the steps do not ascend from 0, or another option is wrong.
    """

    label: ClassVar[str] = "static schedule"

    computed_steps: tuple[int, ...]
    num_sampling_steps: int | None = None
    metric: Metric | None = None
    metric_blocks: tuple[int, ...] = (13,)
    motion_strides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = whole_numbers("computed_steps", self.computed_steps, minimum=0)
        if steps[0] != 0 or any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
            raise ValueError(f"computed_steps must ascend from 0, the first step, got {list(steps)}")
        object.__setattr__(self, "computed_steps", steps)
        if self.num_sampling_steps is not None:
            check_count("num_sampling_steps", self.num_sampling_steps)
        metric = "t-attn" if self.metric is None else self.metric
        object.__setattr__(self, "metric_blocks", read_metric_blocks(metric, self.metric_blocks))
        strides = () if self.motion_strides in ((), []) else whole_numbers("motion_strides", self.motion_strides, 1)
        object.__setattr__(self, "motion_strides", strides)
        if strides and self.metric is None:
            raise ValueError("motion_strides need a metric: motion is measured in its residual")

    @classmethod
    def from_trace(cls, path: str | os.PathLike[str]) -> "StaticScheduleConfig":
        """Return the schedule of a recorded run, bridged as that run was.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no trace, only a part of one, or that of a policy that reused something other than the
                stack.
        """
        trace = Trace.load(path)
        if len(trace.records) != trace.num_steps:
            raise ValueError(
                f"{path} holds {len(trace.records)} of {trace.num_steps} steps; replay the trace of a complete run"
            )
        reuses = trace.metadata.get("reuses", "stack")
        if reuses != "stack":
            raise ValueError(
                f"{path} comes from a policy that reused the model's {reuses}; a list of steps can only repeat one "
                "that reused the whole stack. The settings of its video's sidecar compute the same steps"
            )
        bridge = trace.metadata.get("bridge", BridgeConfig())
        return cls(tuple(trace.computed_steps), trace.num_steps, bridge=bridge)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **options: Any) -> "StaticScheduleConfig":
        """Read a schedule from a JSON file: a trace, as in `from_trace`, or an object with the options of this class.

        The object needs only `computed_steps`. The given `options` override those of the file.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds neither, or an option is wrong.
        """
        data = _read_object(path)
        if "records" in data:
            own = cls.from_trace(path)
        else:
            try:
                # The policy's name is there if `policies.registry.config_to_dict` wrote the config.
                own = cls.from_dict({key: data[key] for key in data if (key, data[key]) != ("policy", "static")})
            except ValueError as error:
                raise ValueError(f"{path} holds no schedule: {error}") from error
        return cls.from_dict({**own.to_dict(), **options})

    def validate(self, num_steps: int, num_blocks: int | None = None) -> None:
        """Refuse, with a ValueError, a run that the schedule does not fit, or a model without its metric blocks."""
        check_count("num_steps", num_steps)
        if self.num_sampling_steps not in (None, num_steps):
            raise ValueError(
                f"the schedule was made for {self.num_sampling_steps} sampling steps, but the run has {num_steps}; set "
                f"num_sampling_steps to {self.num_sampling_steps}, or use another schedule"
            )
        if self.computed_steps[-1] >= num_steps:
            raise ValueError(
                f"computed_steps go up to {self.computed_steps[-1]}, but the run has steps 0 to {num_steps - 1}"
            )
        if self.metric is not None:
            check_blocks_fit(self.metric_blocks, num_blocks)

    def make_policy(self, num_steps: int) -> "StaticSchedule":
        """A policy for one run of `num_steps`; a ValueError if the schedule does not fit it."""
        self.validate(num_steps)
        return StaticSchedule(self.computed_steps, num_steps, self.measured_sites, self.motion_strides)

    @property
    def measured_sites(self) -> tuple[SiteGroup, ...]:
        """Branches whose distances go into the trace."""
        return () if self.metric is None else metric_sites(self.metric, self.metric_blocks)


class PlannedConfig(PolicyConfig):
    """Options that determine the computed steps of a run before it begins."""

    def planned_steps(self, num_steps: int) -> tuple[int, ...]:
        """The steps that a run of `num_steps` computes, 0-based."""
        raise NotImplementedError

    def make_policy(self, num_steps: int) -> "StaticSchedule":
        """A policy for one run; a ValueError unless `num_steps` is a whole number >= 1."""
        check_count("num_steps", num_steps)
        return StaticSchedule(self.planned_steps(num_steps), num_steps)


class StaticSchedule(Policy):
    """Computes the steps of a list, and only reports what it measures."""

    def __init__(
        self,
        computed_steps: Sequence[int],
        num_steps: int,
        observed_sites: tuple[SiteGroup, ...] = (),
        motion_strides: tuple[int, ...] = (),
    ) -> None:
        self.observed_sites = observed_sites
        self._strides = motion_strides
        self._planned = (*computed_steps, num_steps)
        self._last_computed = -1

    def should_compute(self, step_index: int) -> bool:
        """Whether the step is on the list."""
        return step_index in self._planned

    def motion_strides(self, step_index: int) -> tuple[int, ...]:
        """The configured strides, the same at every step."""
        return self._strides

    def observe(self, step_index: int, measurements: Sequence[Measurement]) -> Report:
        """Report the number of steps until the next computed one, and the means of what was measured."""
        interval, self._last_computed = step_index - self._last_computed, step_index
        distances = [item.distance for item in measurements]
        motions = [item.motion for item in measurements if item.motion is not None]
        return Report(
            distance=fmean(distances) / interval if distances else None,
            motion_score=fmean(motions) if motions else None,
            # The next listed step, even if this one is not listed but was computed because frames joined.
            rate=self._planned[bisect_right(self._planned, step_index)] - step_index,
        )


def _read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object that lists the steps of a run or of a schedule; a ValueError for anything else."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(data, dict) or data.keys().isdisjoint(("records", "computed_steps")):
        raise ValueError(f"{path} holds no schedule; give a trace, or a JSON object with a list of computed_steps")
    return data
