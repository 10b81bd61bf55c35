"""Runs a cache on a tiny pipeline, counts what is computed, and compares the results."""

from __future__ import annotations

import linecache
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor, nn

from adacache.conformance.cache import Cache, Setting
from adacache.conformance.tiny_pipeline import TinyPipeline
from adacache.integrations.diffusers.families import find_family
from adacache.integrations.diffusers.pipeline import transformers_of

# Largest difference between runs that compute the same in another order. It is relative to the largest value, since
# untrained models have latents of any size.
ROUNDING = 2e-5


@dataclass(frozen=True)
class Verdict:
    """The result of checking a property.

    Attributes:
        outcome: "refused" if the cache said clearly that it does not serve a pipeline, before it had made a video;
            "n/a" if there is nothing to check; "unpromised" if the property does not hold and is not claimed to.
        evidence: what was counted and measured; differences are relative to the largest value.
        reason: why it is refused, not applicable or not promised, or the error that occurred.
    """

    outcome: Literal["pass", "FAIL", "refused", "n/a", "unpromised"]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@contextmanager
def same_classes(pipe: Any) -> Iterator[None]:
    """Undo, at the end, all that a cache did to the classes of a pipeline, its transformers and their parts."""
    parts = [part for model in transformers_of(pipe) for part in model.modules()]
    before = {kind: dict(vars(kind)) for kind in {type(part) for part in [pipe, *parts]}}
    try:
        yield
    finally:
        for kind, attributes in before.items():
            for name in vars(kind).keys() - attributes.keys():
                delattr(kind, name)
            for name, value in attributes.items():
                if vars(kind).get(name) is not value:
                    setattr(kind, name, value)


class RemovalError(Exception):
    """A cache could not be removed after it was used."""


class Trial:
    """A cache and a pipeline to try it on.

    Attributes:
        pipe: a pipeline that the cache is never applied to.
        num_finished: number of runs with the cache that were completed.
    """

    def __init__(self, cache: Cache, tiny: TinyPipeline, num_steps: int = 8) -> None:
        self.cache = cache
        self.tiny = tiny
        self.num_steps = num_steps
        self.num_finished = 0
        self.pipe = tiny.build()
        self._reused: tuple[Tensor, list[int]] | None = None

    @cached_property
    def plain(self) -> tuple[Tensor, list[int]]:
        """The latents of a run without the cache, and its `layers_per_call`."""
        with layers_per_call(self.pipe, self.tiny) as counts:
            return self.run(self.pipe), counts

    def reused(self) -> tuple[Tensor, list[int]]:
        """Return the same of the first run of a fresh pipeline with the cache, which reuses as much as it can."""
        if self._reused is None:
            with self.applied() as cached:
                self._reused = cached.counted()
        else:
            self.num_finished += 1
        return self._reused

    def run(self, pipe: Any, **changes: Any) -> Tensor:
        """Run a pipeline, cached or not, and return its final latents."""
        return self.tiny.run(pipe, **{"steps": self.num_steps, **changes})

    @contextmanager
    def applied(self, setting: Setting = "some", pipe: Any = None) -> Iterator[CachedPipeline]:
        """Apply the cache to a fresh pipeline, or to `pipe`, until the end of the block.

        Raises:
            RemovalError: the cache could not be removed.
        """
        pipe = self.tiny.build() if pipe is None else pipe
        handle = self.cache.apply(pipe, setting, self.num_steps)
        try:
            yield CachedPipeline(self, pipe, handle)
        except BaseException:
            with suppress(Exception):
                self.cache.remove(pipe, handle)
            raise
        try:
            self.cache.remove(pipe, handle)
        except Exception as error:
            raise RemovalError(f"taking it off failed with {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class CachedPipeline:
    """A pipeline that the cache is applied to."""

    trial: Trial
    pipe: Any
    handle: Any

    def run(self, **changes: Any) -> Tensor:
        latents = self.trial.run(self.pipe, **changes)
        self.trial.num_finished += 1
        return latents

    def counted(self, **changes: Any) -> tuple[Tensor, list[int]]:
        """Return the latents of a run, and its `layers_per_call`."""
        with layers_per_call(self.pipe, self.trial.tiny) as counts:
            return self.run(**changes), counts


@contextmanager
def layers_per_call(pipe: Any, tiny: TinyPipeline) -> Iterator[list[int]]:
    """Yield a list that counts the layers with weights that run in the blocks, for each call of a transformer.

    Layers are counted rather than blocks because a cache may skip parts of a block, or call a block that skips itself.
    """
    counts: list[int] = []

    def count(*_: Any) -> None:
        counts[-1] += 1

    with ExitStack() as hooks:
        for model in transformers_of(pipe):
            hooks.callback(model.register_forward_pre_hook(lambda *_: counts.append(0)).remove)
            for name in tiny.lists:
                for layer in getattr(model, name).modules():
                    if next(layer.parameters(recurse=False), None) is not None:
                        hooks.callback(layer.register_forward_pre_hook(count).remove)
        yield counts


def computed_calls(layers: Sequence[int], tiny: TinyPipeline) -> list[bool]:
    """Return whether each call ran all layers; calls of one step may have different numbers of layers."""
    most = [max(layers[half :: tiny.calls_per_step]) for half in range(tiny.calls_per_step)]
    return [count == most[call % tiny.calls_per_step] for call, count in enumerate(layers)]


@contextmanager
def reused_by_hand(
    pipe: Any, tiny: TinyPipeline, computed: Sequence[bool], from_first_output: bool = False
) -> Iterator[list[bool]]:
    """Run every block, but replace the output of the last one in calls that are not `computed`.

    The replacement is the input of the first block, or its output, plus what was added to it in the last computed call
    of the same transformer and guidance half. Yields a list that collects whether each call was computed.
    """
    residuals: dict[tuple[int, int], list[Tensor]] = {}
    starts: list[Tensor] = []
    calls: list[bool] = []
    with ExitStack() as hooks:
        for number, model in enumerate(transformers_of(pipe)):
            names = ["hidden_states", *filter(None, [find_family(model).audio])]

            def enter(_: nn.Module, args: Any, kwargs: Mapping[str, Any], names: list[str] = names) -> None:
                given = [kwargs[name] if name in kwargs else args[place] for place, name in enumerate(names)]
                starts[:] = [states for states in given if states is not None]  # a sound may be left out

            def pass_first(_: nn.Module, args: Any, output: Any, names: list[str] = names) -> None:
                starts[:] = output[: len(names)] if isinstance(output, tuple) else [output]

            def leave(_: nn.Module, args: Any, output: Any, number: int = number) -> Any:
                states = output if isinstance(output, tuple) else (output,)
                half = number, len(calls) % tiny.calls_per_step
                calls.append(computed[len(calls)] or half not in residuals)
                pairs = [(_by_places(start, end), end) for start, end in zip(starts, states, strict=False)]
                if calls[-1]:
                    residuals[half] = [end - start for start, end in pairs]
                results = [start + added for (start, _), added in zip(pairs, residuals[half], strict=True)]
                return (*results, *states[len(results) :]) if isinstance(output, tuple) else results[0]

            first, last = getattr(model, tiny.lists[0])[0], getattr(model, tiny.lists[-1])[-1]
            if from_first_output:
                hooks.callback(first.register_forward_hook(pass_first).remove)
            else:
                hooks.callback(first.register_forward_pre_hook(enter, with_kwargs=True).remove)
            hooks.callback(last.register_forward_hook(leave).remove)
        yield calls


def _by_places(start: Tensor, end: Tensor) -> Tensor:
    """Regroup `start` like `end`, if the shapes differ: Latte's rows are frames at first, and places at last."""
    if start.shape == end.shape:
        return start
    videos = len(start) // end.shape[1]
    return start.unflatten(0, (videos, -1)).transpose(1, 2).flatten(0, 1)


def difference(latents: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value; infinite if the two cannot be compared."""
    if latents.shape != expected.shape or not latents.isfinite().all() or not expected.isfinite().all():
        return float("inf")
    return float((latents - expected).abs().max() / expected.abs().max())


def compare(pairs: Mapping[str, tuple[Tensor, Tensor]], tolerance: float = 0.0, **evidence: Any) -> Verdict:
    """Return a verdict that passes if no pair of tensors differs by more than `tolerance`; 0 means bit for bit."""
    found = {f"difference of {name}": difference(*pair) for name, pair in pairs.items()}
    return judge(all(value <= tolerance for value in found.values()), **found, **evidence)


def judge(holds: bool, **evidence: Any) -> Verdict:
    return Verdict("pass" if holds else "FAIL", {name.replace("_", " "): value for name, value in evidence.items()})


def raised_on_purpose(error: BaseException) -> bool:
    """Whether a `raise` or `assert` statement raised the error with a message, as one that is meant to be read.

    Names that are not found are no refusal, although PyTorch raises them by a statement: a cache for another model
    looks for that model's attributes.
    """
    if isinstance(error, AttributeError | LookupError | NameError):
        return False
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    line = linecache.getline(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno) if traceback else ""
    return line.lstrip().startswith(("raise ", "assert ")) and bool(str(error))
