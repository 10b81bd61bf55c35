"""What a finished run tells: whether its cache did what was asked of it."""

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
