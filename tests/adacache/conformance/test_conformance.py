"""`python -m adacache.conformance`: a right cache passes, and for each property there is a wrong one that does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from adacache.conformance.__main__ import BEGIN, main
from adacache.conformance.cache import OURS, Cache, NotApplicable
from adacache.conformance.diffusers_hooks import HOOKS, _hook
from adacache.conformance.properties import PROPERTIES, check
from adacache.conformance.tiny import TINY
from adacache.conformance.trial import Trial

WAN = TINY["wan"]


class Residuals:
    """A cache for Wan as one writes it in an hour: every other step adds the last residual of all blocks.

    Args:
        flaw: What is wrong with it; "" for nothing.
    """

    is_on = True

    def __init__(self, pipe: Any, setting: Any, num_steps: int, flaw: str) -> None:
        self.pipe, self.model, self.flaw, self.num_steps = pipe, pipe.transformer, flaw, num_steps
        self.interval = 1 if setting == "every" or flaw == "reuses nothing" else 2
        self.schedule: Tensor | None = None
        self.times: list[float] = []  # of the first run
        self.width: int | None = None  # of the first run
        self.off = False
        self.calls = 0
        self.residuals: dict[int, Tensor] = {}
        self.of_first_run: dict[int, Tensor] = {}
        Residuals.is_on = True
        self.first, *_, self.last = self.model.blocks
        self.hooks = [self.model.register_forward_pre_hook(self.begin_call, with_kwargs=True)]
        for block in self.model.blocks:
            block.forward = partial(self.run_block, block, block.forward)
        own = self.own_forward = type(self.first).forward
        if flaw == "changes the class":
            type(self.first).forward = lambda *args, **kwargs: 2 * own(*args, **kwargs)
        if flaw == "leaves a wrapper on the class":
            type(self.first).forward = lambda *args, **kwargs: own(*args, **kwargs)

    def remove(self) -> None:
        for block in self.model.blocks:
            del block.forward
        for hook in self.hooks:
            hook.remove()
        if self.flaw == "leaves a hook":
            self.first.register_forward_pre_hook(lambda *_: None)
        if self.flaw == "leaves weights in another precision":
            self.model.proj_out.weight.data = self.model.proj_out.weight.bfloat16().float()
        if self.flaw == "changes the class":
            type(self.first).forward = self.own_forward
        if self.flaw == "goes off everywhere":
            Residuals.is_on = False

    def begin_call(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        schedule = self.pipe.scheduler.timesteps
        counts = self.flaw == "resets by counting"
        over = self.calls == 2 * self.num_steps if counts else schedule is not self.schedule
        if over:
            self.calls = 0
            if self.flaw != "keeps residuals for the next run":
                self.residuals = {}
        self.schedule = schedule
        self.times = self.times or schedule.tolist()
        width = kwargs["hidden_states"].shape[-1]
        self.width = self.width or width
        self.off |= not Residuals.is_on
        self.off |= self.flaw == "gives up at another size" and width != self.width
        step, half = divmod(self.calls, 2)
        self.half = 0 if self.flaw == "mixes the halves" else half
        self.computes = step % self.interval == 0 or self.off
        if self.flaw == "knows one schedule":
            self.computes = float(kwargs["timestep"].max()) in self.times[:: self.interval]
        if self.flaw == "keeps residuals for the next run" and self.half in self.residuals:
            self.computes = step % self.interval == 1
        self.computes |= self.half not in self.residuals
        self.calls += 1

    def run_block(self, block: nn.Module, forward: Callable[..., Tensor], hidden_states: Tensor, *args: Any) -> Tensor:
        if block is self.first:
            self.input = hidden_states
        if self.computes:
            output = forward(hidden_states, *args)
            if block is self.last:
                residual = output - self.input
                self.residuals[self.half] = residual.mean(0, keepdim=True) if "batch" in self.flaw else residual
                if self.flaw == "adds what the first run added":
                    self.residuals[self.half] = self.of_first_run.setdefault(self.calls, residual)
            return output + 1e-6 if self.flaw == "is not exact" else output
        weight = 0.9 if self.flaw == "adds nine tenths" else 1.0
        if getattr(self.model, "_diffusers_hook", None) and self.flaw == "is out of step with offloading":
            weight = 0.0 if "group_offloading" in self.model._diffusers_hook.hooks else 1.0
        return hidden_states + weight * self.residuals[self.half] if block is self.last else hidden_states

    def computed_steps(self) -> list[int]:
        return list(range(self.flaw == "miscounts", self.num_steps, self.interval))


def cache_with(flaw: str = "", **options: Any) -> Cache:
    def apply(pipe: Any, setting: Any, num_steps: int) -> Residuals:
        return Residuals(pipe, setting, num_steps, flaw)

    options = {"adds": "stack", "computed_steps": Residuals.computed_steps, **options}
    return Cache("residuals", "0", apply, lambda pipe, handle: handle.remove(), **options)


FLAWS = [
    ("reuses nothing", "reuses"),
    ("is not exact", "exact"),
    ("changes the class", "confined"),
    ("leaves a hook", "removed"),
    ("leaves a wrapper on the class", "removed"),
    ("leaves weights in another precision", "removed"),
    ("adds nine tenths", "residual"),
    ("shares over the batch", "alone"),
    ("mixes the halves", "halves"),
    ("keeps residuals for the next run", "again"),
    ("adds what the first run added", "again"),
    ("resets by counting", "aborted"),
    ("gives up at another size", "size"),
    ("resets by counting", "steps"),
    ("knows one schedule", "scheduler"),
    ("goes off everywhere", "side by side"),
    ("miscounts", "counts"),
]


# What is checked of all families elsewhere.
ELSEWHERE = {"reuses", "exact", "removed", "residual", "alone", "halves", "aborted", "counts"}


@pytest.mark.parametrize(
    ("cache", "family", "names"),
    [
        (OURS[0], "wan", [name for name in PROPERTIES if name not in ELSEWHERE]),
        (OURS[0], "latte", ["again", "size", "scheduler", "side by side"]),
        (cache_with(), "wan", list(PROPERTIES)),
    ],
)
def test_ours_and_a_simple_cache_pass(cache, family, names):
    trial = Trial(cache, TINY[family], num_steps=6)
    fallen = {name: verdict.reason for name in names if (verdict := check(name, trial)).outcome != "pass"}
    without = "group offloading needs accelerate"
    assert fallen.items() <= {"offload before": without, "offload after": without}.items()


@pytest.mark.parametrize(("flaw", "name"), FLAWS)
def test_a_flaw_is_found(flaw, name):
    verdict = check(name, Trial(cache_with(flaw), WAN, num_steps=6))
    assert verdict.outcome == "FAIL" and verdict.evidence and not verdict.reason


def test_the_documentation_names_every_property():
    text = (Path(__file__).parents[3] / "docs" / "conformance.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    assert {*PROPERTIES} <= {name.strip() for row in rows for name in row.split(",")}


def test_every_property_has_a_flaw():
    assert {name for _, name in FLAWS} == {name for name in PROPERTIES if not name.startswith("offload")}


@pytest.mark.parametrize("order", ["before", "after"])
def test_offloading_that_goes_wrong_is_found(order):
    pytest.importorskip("accelerate")
    assert check(f"offload {order}", Trial(cache_with("is out of step with offloading"), WAN)).outcome == "FAIL"


def test_what_is_refused_or_not_promised_is_no_failure():
    def refuse(pipe: Any, setting: Any, num_steps: int) -> None:
        raise ValueError("this cache is for images")

    def stumble(pipe: Any, setting: Any, num_steps: int) -> None:
        torch.ones(2) + torch.ones(3)

    def pass_by(pipe: Any, setting: Any, num_steps: int) -> None:
        raise NotApplicable("there is nothing to cache")

    def mistake(pipe: Any, setting: Any, num_steps: int) -> None:
        list(pipe.transformer.transformer_blocks)  # of another model

    outcomes = []
    for apply in (refuse, stumble, pass_by, mistake):
        verdict = check("again", Trial(Cache("", "", apply, print), WAN))
        outcomes.append((verdict.outcome, verdict.reason.partition(":")[0]))
    assert outcomes[:2] == [("refused", "ValueError"), ("FAIL", "RuntimeError")]
    assert outcomes[2:] == [("n/a", "there is nothing to cache"), ("FAIL", "AttributeError")]
    verdict = check("residual", Trial(cache_with("adds nine tenths", not_promised={"residual": "roughly"}), WAN))
    assert verdict.outcome == "unpromised" and verdict.evidence and verdict.reason == "roughly"
    verdict = check("again", Trial(Cache("", "", stumble, print, not_promised={"again": "roughly"}), WAN))
    assert verdict.outcome == "unpromised" and verdict.reason.startswith("roughly (RuntimeError: ")


def test_what_cannot_be_told_is_no_pass(monkeypatch):
    few = check("aborted", Trial(cache_with("resets by counting"), WAN, num_steps=2))
    assert few.outcome == "n/a" and "2 times" in few.reason
    far = cache_with(adapts=True, turning_point=lambda handle: 1e6)
    assert "decide differently" in check("alone", Trial(far, WAN, num_steps=6)).reason
    spoiled = Trial(cache_with("shares over the batch"), WAN, num_steps=6)
    run = spoiled.run
    monkeypatch.setattr(
        spoiled, "run", lambda pipe, **changes: run(pipe, **changes) * (1 if "batch" not in changes else float("nan"))
    )
    verdict = check("alone", spoiled)
    assert verdict.outcome == "n/a" and "without a cache, too" in verdict.reason


def test_a_forward_that_was_taken_from_a_class_is_given_back():
    def take(pipe: Any, handle: Any) -> None:
        del type(pipe.transformer).forward

    trial = Trial(Cache("", "", lambda *_: None, take), WAN, num_steps=3)
    assert check("reuses", trial).outcome == "FAIL"
    assert WAN.run(trial.pipe, steps=3).isfinite().all()


@pytest.mark.parametrize(
    ("make_config", "raised", "name"),
    [
        (lambda *_: diffusers.NoSuchConfig, NotApplicable, "NoSuchConfig"),
        (lambda pipe, *_: pipe.no_such_attribute, AttributeError, "no_such_attribute"),
    ],
)
def test_only_a_class_that_diffusers_lacks_is_not_applicable(make_config, raised, name):
    hook = _hook("missing", make_config)
    with pytest.raises(raised, match=name):
        hook.apply(Trial(hook, WAN).pipe, "some", 3)


CACHE = cache_with("miscounts")
NOT_REUSING = cache_with("reuses nothing")


def test_the_command(tmp_path, capsys, log_levels):
    table, results = tmp_path / "conformance.md", tmp_path / "results.json"
    table.write_text(f"# Title\n\n{BEGIN}\nold\n<!-- written by --markdown: end -->\nafter\n")
    assert (
        main(["--cache", "adacache-static", "--families", "latte", "--properties", "counts", "--json", str(results)])
        == 0
    )
    assert "adacache-static (this library), 1 pipeline\n" in capsys.readouterr().out
    options = ["--families", "wan", "--properties", "exact", "counts", "--with", str(results)]
    own = f"{__name__}:CACHE"
    assert main(["--cache", "adacache-static", own, *options, "--json", str(results), "--markdown", str(table)]) == 1
    shown = capsys.readouterr().out
    assert "adacache-static (this library), 2 pipelines" in shown
    assert "FAIL: counts, wan: told" in shown
    text = table.read_text()
    assert text.startswith("# Title\n") and text.endswith("\nafter\n") and "\nold\n" not in text
    assert "| counts | 2 pass |" in text and "| counts | **1 FAIL** |" in text
    assert f"diffusers {diffusers.__version__}" in text
    found = json.loads(results.read_text())["verdicts"]
    assert [entry["verdict"]["outcome"] for entry in found] == ["pass", "pass", "pass", "pass", "FAIL"]
    older = json.loads(results.read_text())
    older["versions"]["diffusers"] = "0.38.0"
    (tmp_path / "older.json").write_text(json.dumps(older))
    main(["--cache", "--with", str(tmp_path / "older.json"), str(results), "--markdown", str(table)])
    assert f"diffusers 0.38.0 and {diffusers.__version__}" in table.read_text()
    assert main(["--cache", f"{__name__}:NOT_REUSING", "--families", "wan", "--properties", "exact"]) == 1
    assert "FAIL: reuses, wan" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cache", "adacahe"], "unknown cache 'adacahe'; known are adacache, diffusers, adacache-codebook"),
        (["--cache", "nowhere:CACHE"], "No module named 'nowhere'"),
        (["--families", "wann"], "unknown family 'wann'"),
        (["--properties", "speed"], "unknown property 'speed'; known are reuses"),
        (["--cache", f"{__name__}:BEGIN"], "and not an adacache.conformance.cache.Cache"),
        (["--json", "nowhere/results.json"], "nowhere/results.json cannot be written"),
        (["--with", "list.json"], "list.json is not what --json writes"),
        (["--with", "other.json"], "other.json is not what --json writes"),
        (["--markdown", "begun.md"], "begun.md has the mark"),
    ],
)
def test_what_it_does_not_know(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("list.json", "[]"), ("other.json", "{}"), ("begun.md", f"{BEGIN}\nall that follows\n")):
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_the_hooks_of_diffusers_are_all_there():
    """Another one that `enable_cache` comes to know is to be described, too; the one for images has no place here."""
    known = {name for name in dir(diffusers) if name.endswith("CacheConfig")} - {"TextKVCacheConfig"}
    configs = {"PyramidAttentionBroadcastConfig", *known}
    assert len({cache.name.partition("-")[0] for cache in HOOKS}) == len(configs)
