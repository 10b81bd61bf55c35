"""What a finished run tells: whether its cache did what was asked of it, and how much a video has probably changed."""

import math
from collections.abc import Iterable
from itertools import pairwise

from adacache.policies.adacache import AdaCacheConfig
from adacache.policies.base import PolicyConfig
from adacache.policies.static import StaticScheduleConfig
from adacache.trace import Trace


def surprises(trace: Trace, config: PolicyConfig) -> list[str]:
    """Return what a user of `config` (a policy's config) would not expect of this complete run, one sentence each.

    A run that reused nothing, neither a step nor a branch, has only paid for its cache; one that computed other steps
    than a schedule lists was driven by something else.
    """
    found = []
    shares = [record.computed_share for record in trace.records if record.computed_share is not None]
    if trace.records and not trace.num_reused and all(share == 1 for share in shares):
        cause = "its ranges and its window of times leave no branch to reuse" if shares else _why_no_step(config)
        found.append(f"no step of {trace.num_steps} was reused: the cache saved nothing; {cause}")
    joined = {record.index for record in trace.records if record.joined}  # computed whatever the policy says
    if (
        isinstance(config, StaticScheduleConfig)
        and set(trace.computed_steps) - joined != set(config.computed_steps) - joined
    ):
        found.append(
            f"steps {trace.computed_steps} were computed, but the schedule lists {list(config.computed_steps)}"
        )
    return found


def _why_no_step(config: PolicyConfig) -> str:
    if isinstance(config, AdaCacheConfig):
        return "the thresholds of its codebook are too small for this model, or the run is too short"
    if hasattr(config, "threshold"):
        return "its threshold is too small for this model, or the run is too short"
    return "its schedule computes every step"


def change_risk(trace: Trace) -> float | None:
    """Change per step times the share of the flow's time that was reused, summed over the gaps between computed steps.

    A reused step moves the latents by an outdated residual for the time until the next step, and the next computed step
    tells how much per step the residual changed meanwhile. So a gap between two computed steps counts as the `distance`
    measured at its end times the time its reused steps span, where the whole run spans 1 (steps count alike if the
    trace has no timesteps). Reused steps after the last computed one are not counted: nothing was measured after them.

    Compare only drafts of one config: another schedule, metric or model has another scale. The result is None if
    nothing was measured, or if the policy goes by a signal, whose distances are not changes per step; 0 if nothing was
    reused; infinite if a measurement was not finite.

    It is a weak hint, no substitute for looking. Rank correlation with the loss of PSNR, on 22 captions kept out of the
    mini model's training with six seeds each, 8 of 30 steps computed by its calibrated schedule: 0.47 over all drafts,
    and 0.30 (standard error 0.09) among the seeds of one caption, where the riskier one of two drafts is the worse one
    in 62 % of all pairs (measured at commit fdf45eb). Counting early or late gaps only, or weighing by motion or by
    what the bridge left over, was no better.
    """
    computed = [record for record in trace.records if record.computed]
    terms = [
        end.distance * _duration(trace, range(start.index + 1, end.index))
        for start, end in pairwise(computed)
        if end.distance is not None and end.index > start.index + 1
    ]
    by_signal = any(record.distance is not None for record in trace.records if not record.computed)
    if by_signal or all(record.distance is None for record in computed):
        return None
    risk = sum(terms)
    return risk if math.isfinite(risk) else math.inf


def _duration(trace: Trace, steps: Iterable[int]) -> float:
    """The share of the run's time from each of these steps to the one after it; none of them is the last."""
    times = [record.timestep for record in trace.records]
    if None in times or times[0] == 0:
        return len(list(steps)) / trace.num_steps
    return sum(times[step] - times[step + 1] for step in steps) / times[0]
