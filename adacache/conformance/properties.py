"""The properties of a cache; each is a function that checks it in a trial.

A property's docstring says what holds if it passes, where "it" is the cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import wraps
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from adacache.conformance.cache import NotApplicable
from adacache.conformance.trial import (
    ROUNDING,
    Trial,
    Verdict,
    compare,
    computed_calls,
    difference,
    judge,
    raised_on_purpose,
    reused_by_hand,
    same_classes,
)
from adacache.integrations.diffusers.pipeline import transformers_of

MOST_ROUNDING = 1e-3  # of a batch without a cache; beyond, nothing can be said about one with it
ABORTED_AFTER = 3  # steps


def reuses(trial: Trial) -> Verdict:
    """With settings that reuse steps, fewer layers run, and the video changes."""
    plain, of_plain = trial.plain
    latents, counts = trial.reused()
    change = difference(latents, plain)
    fewer = sum(counts) < sum(of_plain)
    return judge(fewer and 0 < change < float("inf"), layers=f"{sum(counts)} of {sum(of_plain)}", change=change)


def exact(trial: Trial) -> Verdict:
    """A run that computes every step equals the plain run, bit for bit."""
    if not trial.cache.computes_every:
        raise NotApplicable("it knows no setting that computes every step")
    plain, _ = trial.plain
    with trial.applied("every") as cached:
        return compare({"latents": (cached.run(), plain)})


def confined(trial: Trial) -> Verdict:
    """Another pipeline of the same classes, without the cache, is not affected, bit for bit."""
    plain, _ = trial.plain
    with trial.applied() as cached:
        before = trial.run(trial.pipe)
        cached.run()
        return compare({"latents before": (before, plain), "after a cached run": (trial.run(trial.pipe), plain)})


def removed(trial: Trial) -> Verdict:
    """Removing it restores outputs and weights bit for bit, and leaves no wrapper or hook on a module or its class."""
    pipe = trial.tiny.build()
    plain = trial.run(pipe)  # of this pipeline: its own runs may set attributes
    models = transformers_of(pipe)
    weights = [deepcopy(model.state_dict()) for model in models]
    attributes = [set(vars(model)) for model in models]
    classes = _forwards(models)
    with trial.applied(pipe=pipe) as cached:
        cached.run()
    left = [name or type(model).__name__ for model in models for name, _ in filter(_is_wrapped, model.named_modules())]
    left += [kind.__name__ for kind, forward in _forwards(models).items() if classes.get(kind) is not forward]
    same = all(_same_weights(model.state_dict(), before) for model, before in zip(models, weights, strict=True))
    new = {name for model, before in zip(models, attributes, strict=True) for name in set(vars(model)) - before}
    change = difference(trial.run(pipe), plain)
    holds = change == 0 and same and not left
    return judge(holds, change=change, same_weights=same, wrapped=left, new_attributes=sorted(new))


def _is_wrapped(named: tuple[str, nn.Module]) -> bool:
    module = named[1]
    forward = vars(module).get("forward")  # may be the class's own, which diffusers restores this way
    replaced = forward is not None and getattr(forward, "__func__", None) is not type(module).forward
    hooked = module._forward_hooks or module._forward_pre_hooks
    return bool(replaced or hooked or getattr(getattr(module, "_diffusers_hook", None), "hooks", None))


def _forwards(models: Sequence[nn.Module]) -> dict[type, Any]:
    """Return the forward of each class of the models' modules."""
    return {type(module): type(module).forward for model in models for module in model.modules()}


def _same_weights(weights: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> bool:
    return weights.keys() == before.keys() and all(torch.equal(value, before[name]) for name, value in weights.items())


def residual(trial: Trial) -> Verdict:
    """A reused call adds what the cache claims to add, compared with a hand-written loop."""
    adds = trial.cache.adds
    if callable(adds):
        with trial.applied() as cached:
            adds = adds(cached.pipe)
    if adds is None:
        raise NotApplicable("it does not add one stored residual")
    latents, layers = trial.reused()
    computed = computed_calls(layers, trial.tiny)
    with reused_by_hand(trial.pipe, trial.tiny, computed, from_first_output=adds == "tail"):
        by_hand = trial.run(trial.pipe)
    return compare(
        {"latents": (latents, by_hand)}, ROUNDING, reused_calls=f"{computed.count(False)} of {len(computed)}"
    )


def alone(trial: Trial) -> Verdict:
    """A batch of two equals two single runs, at a threshold at which the two videos decide differently."""
    setting = _threshold_between(trial) if trial.cache.adapts else "some"
    with trial.applied(setting) as cached:
        (first, one), (second, other) = (cached.counted(seed=seed) for seed in (0, 1))
    with trial.applied(setting) as cached:
        both = cached.run(batch=2)
    if trial.cache.adapts and one == other:
        raise NotApplicable("no threshold was found at which two videos decide differently")
    pairs = {"the first": (both[:1], first), "the second": (both[1:], second)}
    decisions = "different" if one != other else "equal"
    verdict = compare(pairs, ROUNDING, decisions=decisions)
    if verdict.outcome == "pass":
        return verdict
    # On some CPUs a batch rounds otherwise than its videos alone, without a cache as well (3.2e-5 apart with AVX2).
    plain, singles = trial.run(trial.pipe, batch=2), [trial.run(trial.pipe, seed=seed) for seed in (0, 1)]
    rounding = max(difference(plain[i : i + 1], single) for i, single in enumerate(singles))
    if rounding > MOST_ROUNDING:
        raise NotApplicable(f"without a cache, too, videos of a batch are not those made alone: {rounding:.2g} apart")
    return compare(pairs, max(ROUNDING, 2 * rounding), decisions=decisions, difference_without_cache=rounding)


def _threshold_between(trial: Trial) -> float:
    """Return a threshold at which one of the videos of two seeds has a reused call, and the other has none yet.

    Raises:
        NotApplicable: none was found.
    """
    low, high = 1e-9, 1e3
    if trial.cache.turning_point is not None:
        with trial.applied(low) as cached:
            points = []
            for seed in (0, 1):
                cached.run(seed=seed)
                points.append(trial.cache.turning_point(cached.handle))
        return sum(points) / 2
    for _ in range(40):
        threshold = (low * high) ** 0.5
        with trial.applied(threshold) as cached:
            layers = [cached.counted(seed=seed)[1] for seed in (0, 1)]
        one, other = (min(counts) < max(counts) for counts in layers)
        if one != other:
            return threshold
        low, high = (low, threshold) if one else (threshold, high)
    raise NotApplicable("no threshold was found at which two videos decide differently")


def halves(trial: Trial) -> Verdict:
    """The prediction of one guidance half does not depend on the other's prompt, at equal latents, bit for bit."""
    plain = _changes_of_halves(trial, trial.pipe)
    if plain is None or sorted(tuple(value > 0 for value in row) for row in plain) != [(False, True), (True, False)]:
        raise NotApplicable("the pipeline makes no two halves, each with a prompt of its own")
    with trial.applied() as cached:
        found = _changes_of_halves(trial, cached.pipe)
        trial.num_finished += 1
    leaks = [
        new for rows in zip(found, plain, strict=True) for new, of_plain in zip(*rows, strict=True) if not of_plain
    ]
    return judge(not any(leaks), change_by_the_other_prompt=max(leaks))


def _changes_of_halves(trial: Trial, pipe: Any) -> list[tuple[float, float]] | None:
    """Return how much both halves' predictions change with another negative prompt, and with another prompt.

    The latents are held fixed, so that a half is not affected by the other one's effect on the video. The result is
    None if the pipeline has no two halves.
    """
    base = trial.tiny.arguments(steps=trial.num_steps)
    found = []
    for change in ({}, _flipped(base, negative=True), _flipped(base, negative=False)):
        with _stepping(pipe, _stay), _predictions(pipe) as predictions:
            trial.run(pipe, **change)
        found.append(predictions)
    if trial.tiny.calls_per_step == 2:
        split = [(torch.cat(values[0::2]), torch.cat(values[1::2])) for values in found]
    elif trial.tiny.calls_per_step == 1 and all(len(value) == 2 for values in found for value in values):
        split = [tuple(torch.cat([value[row : row + 1] for value in values]) for row in (0, 1)) for values in found]
    else:
        return None
    return [tuple(difference(*pair) for pair in zip(other, split[0], strict=True)) for other in split[1:]]


def _flipped(arguments: Mapping[str, Any], negative: bool) -> dict[str, Tensor]:
    """Return arguments that give a guidance half other texts."""
    texts = {name: value for name, value in arguments.items() if "prompt_embeds" in name and value is not None}
    return {name: -value for name, value in texts.items() if name.startswith("negative_") == negative}


@contextmanager
def _stepping(pipe: Any, change: Callable[[Tensor, Any], Any]) -> Iterator[None]:
    """Pass the scheduler's results, and those of its copies, through `change(sample, result)` for a while."""
    own = type(pipe.scheduler).step

    @wraps(own)
    def step(*args: Any, **kwargs: Any) -> Any:
        sample = inspect.signature(own).bind(*args, **kwargs).arguments["sample"]
        return change(sample, own(*args, **kwargs))

    with patch.object(type(pipe.scheduler), "step", step):
        yield


def _stay(sample: Tensor, stepped: Any) -> Any:
    """Return a scheduler's result with the latents replaced by those from before the step."""
    if isinstance(stepped, tuple):
        return (sample, *stepped[1:])
    stepped.prev_sample = sample
    return stepped


@contextmanager
def _predictions(pipe: Any) -> Iterator[list[Tensor]]:
    """Yield a list that collects what the transformers return, call by call."""
    found: list[Tensor] = []
    hooks = [
        model.register_forward_hook(lambda module, args, output: found.append(output[0].clone()))
        for model in transformers_of(pipe)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def again(trial: Trial) -> Verdict:
    """A second run equals the first, also after a run of another video, which is that of a fresh pipeline."""
    with trial.applied() as cached:
        first, second, other = cached.run(), cached.run(), cached.run(seed=5)
        pairs = {"the second run": (second, first), "the fourth": (cached.run(), first)}
    with trial.applied() as fresh:
        return compare({**pairs, "the other video": (other, fresh.run(seed=5))})


class _Aborted(Exception):
    """Interrupts a run."""


def aborted(trial: Trial) -> Verdict:
    """A run that an exception interrupts does not affect the next one, bit for bit."""
    steps: list[Tensor] = []

    def fail(sample: Tensor, stepped: Any) -> Any:
        steps.append(sample)
        if len(steps) == ABORTED_AFTER:
            raise _Aborted
        return stepped

    with trial.applied() as cached:
        first = cached.run()
        with _stepping(cached.pipe, fail), suppress(_Aborted):
            cached.run(seed=5)
        if len(steps) != ABORTED_AFTER:
            raise NotApplicable(f"the pipeline steps its scheduler {len(steps)} times, too few to be aborted")
        return compare({"the next run": (cached.run(), first)}, steps_before=len(steps))


def side_by_side(trial: Trial) -> Verdict:
    """Two cached pipelines give what each gives alone, also once it is removed from the other.

    When it is removed from both, a third pipeline that never had it runs as before.
    """
    plain, _ = trial.plain
    alone, _ = trial.reused()
    with trial.applied() as second:
        with trial.applied() as first:
            pairs = {"the first": (first.run(), alone), "the second": (second.run(), alone)}
        pairs["the one that is left"] = second.run(), alone
    return compare({**pairs, "a plain one": (trial.run(trial.pipe), plain)})


def _after(change: Callable[[Trial, Any], dict[str, Any]], what: str) -> Callable[[Trial], Verdict]:
    """Return a property: a run with other settings equals that of a fresh pipeline, and does not affect the next."""

    def check(trial: Trial) -> Verdict:
        plain = trial.tiny.build()
        try:
            trial.run(plain, **change(trial, plain))
        except NotApplicable:
            raise
        except Exception as error:
            raise NotApplicable(f"the pipeline itself does not run so: {type(error).__name__} {error}") from error
        with trial.applied() as cached:
            scheduler = cached.pipe.scheduler
            first = cached.run()
            other = cached.run(**change(trial, cached.pipe))
            cached.pipe.scheduler = scheduler
            following = cached.run()
        with trial.applied() as cached:
            fresh = cached.run(**change(trial, cached.pipe))
        return compare({"that run": (other, fresh), "the next one": (following, first)})

    check.__doc__ = (
        f"A run with another {what} is that of a fresh pipeline, and leaves the next as it was, bit for bit."
    )
    return check


def _other_scheduler(trial: Trial, pipe: Any) -> dict[str, Any]:
    """Replace the pipeline's scheduler with a copy that has another noise schedule."""
    known = pipe.scheduler.config
    name = next((name for name in ("shift", "flow_shift", "beta_end") if known.get(name)), None)
    if name is None:
        raise NotApplicable(f"no other noise schedule is known for {type(pipe.scheduler).__name__}")
    pipe.scheduler = type(pipe.scheduler).from_config(known, **{name: 0.7 * known[name]})
    return {}


def counts(trial: Trial) -> Verdict:
    """The steps that it reports as computed are those in which the blocks ran."""
    if trial.cache.computed_steps is None:
        raise NotApplicable("it does not tell which steps were computed")
    with trial.applied() as cached:
        _, layers = cached.counted()
        told = list(trial.cache.computed_steps(cached.handle))
    computed = computed_calls(layers, trial.tiny)
    seen = sorted({call // trial.tiny.calls_per_step for call, ran in enumerate(computed) if ran})
    return judge(told == seen, told=told, seen=seen)


def _offloaded(comes_first: bool) -> Callable[[Trial], Verdict]:
    def check(trial: Trial) -> Verdict:
        expected, _ = trial.reused()
        trial.num_finished = 0
        pipe = trial.tiny.build()
        if comes_first:
            _offload(pipe)
        with trial.applied(pipe=pipe) as cached:
            if not comes_first:
                _offload(pipe)
            return compare({"latents": (cached.run(), expected)})

    order = "before" if comes_first else "after"
    check.__doc__ = f"With group offloading that was enabled {order} it, it gives what it gives without."
    return check


def _offload(pipe: Any) -> None:
    if find_spec("accelerate") is None:
        raise NotApplicable("group offloading needs accelerate")
    device = torch.device("cpu")
    for model in transformers_of(pipe):
        if not hasattr(model, "enable_group_offload"):
            raise NotApplicable(f"{type(model).__name__} has no group offloading")
        model.enable_group_offload(onload_device=device, offload_device=device, offload_type="leaf_level")


PROPERTIES: dict[str, Callable[[Trial], Verdict]] = {
    "reuses": reuses,
    "exact": exact,
    "confined": confined,
    "removed": removed,
    "residual": residual,
    "alone": alone,
    "halves": halves,
    "again": again,
    "aborted": aborted,
    "size": _after(lambda trial, pipe: {"width": trial.tiny.call["width"] // 2}, "size"),
    "steps": _after(lambda trial, pipe: {"steps": trial.num_steps + 3}, "number of steps"),
    "scheduler": _after(_other_scheduler, "noise schedule"),
    "side by side": side_by_side,
    "counts": counts,
    "offload before": _offloaded(comes_first=True),
    "offload after": _offloaded(comes_first=False),
}


def check(name: str, trial: Trial) -> Verdict:
    """Return the verdict on a property; errors of the cache become verdicts, too."""
    trial.num_finished = 0
    try:
        with same_classes(trial.pipe):
            verdict = PROPERTIES[name](trial)
    except NotApplicable as error:
        return Verdict("n/a", reason=str(error))
    except Exception as error:
        refused = not trial.num_finished and raised_on_purpose(error)
        sentence = f"{type(error).__name__}: {error}".splitlines()[0]
        verdict = Verdict("refused" if refused else "FAIL", reason=sentence)
    reason = trial.cache.not_promised.get(name)
    if verdict.outcome != "FAIL" or not reason:
        return verdict
    return Verdict("unpromised", verdict.evidence, f"{reason} ({verdict.reason})" if verdict.reason else reason)
