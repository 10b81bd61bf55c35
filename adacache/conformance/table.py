"""Collects verdicts on many caches, families and properties, and writes them for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adacache.conformance.cache import Cache
from adacache.conformance.properties import PROPERTIES, check
from adacache.conformance.tiny_pipeline import TinyPipeline
from adacache.conformance.trial import Trial, Verdict

OUTCOMES = ("pass", "FAIL", "unpromised", "refused", "n/a")


@dataclass(frozen=True)
class Entry:
    """One verdict, with the cache, family and property that it is about."""

    cache: str
    version: str
    family: str
    property: str
    verdict: Verdict

    def sentence(self) -> str:
        """Return the evidence and the reason in words."""
        evidence = ", ".join(f"{name} {_written(value)}" for name, value in self.verdict.evidence.items())
        return "; ".join(part for part in (evidence, self.verdict.reason) if part)


def check_all(
    caches: Iterable[Cache],
    families: Mapping[str, TinyPipeline],
    properties: Sequence[str],
    done: Callable[[Entry], object] = lambda entry: None,
) -> list[Entry]:
    """Check every property of every cache on every family; if a cache reuses nothing in a family, check no other.

    That it reuses nothing is told even if that property was not asked for.
    """
    entries = []
    for cache in caches:
        for family, tiny in families.items():
            trial = Trial(cache, tiny)
            first = check("reuses", trial)
            told = () if "reuses" in properties or first.outcome != "FAIL" else ("reuses",)
            for name in (*told, *properties):
                if name == "reuses":
                    verdict = first
                elif first.outcome == "pass":
                    verdict = check(name, trial)
                elif first.outcome == "FAIL":
                    verdict = Verdict("n/a", reason="it does not reuse" if first.evidence else "it does not run")
                else:
                    verdict = Verdict(first.outcome, reason=first.reason)
                entries.append(Entry(cache.name, cache.version, family, name, verdict))
                done(entries[-1])
    return entries


def as_text(entries: Sequence[Entry]) -> str:
    """Return the counts of each outcome, cache by cache, and what failed."""
    width = max(map(len, PROPERTIES)) + 2
    lines = []
    for cache, own in _grouped(entries, lambda entry: entry.cache).items():
        families = {entry.family for entry in own}
        lines += [f"{cache} ({own[0].version}), {len(families)} pipeline{'s' * (len(families) != 1)}"]
        lines += [f"  {'':{width}}" + "".join(f"{outcome:>12}" for outcome in OUTCOMES)]
        for name, verdicts in _grouped(own, lambda entry: entry.property).items():
            counts = Counter(entry.verdict.outcome for entry in verdicts)
            lines += [f"  {name:{width}}" + "".join(f"{counts[outcome] or '.':>12}" for outcome in OUTCOMES)]
        for outcome in ("FAIL", "unpromised"):
            lines += [
                f"  {outcome}: {entry.property}, {entry.family}: {entry.sentence()}"
                for entry in own
                if entry.verdict.outcome == outcome
            ]
        lines += [""]
    return "\n".join(lines)


def as_markdown(entries: Sequence[Entry]) -> str:
    """Return a table of pipeline counts for each package, properties by caches, and one of what did not hold."""
    lines = []
    for package, own in _grouped(entries, lambda entry: entry.version).items():
        caches = _grouped(own, lambda entry: entry.cache)
        lines += [f"| {package} | " + " | ".join(f"`{cache}`" for cache in caches) + " |"]
        lines += ["|---" * (len(caches) + 1) + "|"]
        for name in _grouped(own, lambda entry: entry.property):
            cells = [_cell(entry for entry in of_cache if entry.property == name) for of_cache in caches.values()]
            lines += [f"| {name} | " + " | ".join(cells) + " |"]
        lines += [""]
    lines += ["| cache | property | outcome | pipelines | for instance |", "|---|---|---|---|---|"]
    fallen = [entry for entry in entries if entry.verdict.outcome in ("FAIL", "unpromised")]
    for one, *others in _grouped(fallen, lambda entry: (entry.cache, entry.property, entry.verdict.outcome)).values():
        families = ", ".join(entry.family for entry in (one, *others))
        words = f"{one.family}: {one.sentence()}".replace("|", "\\|")
        lines += [f"| `{one.cache}` | {one.property} | {one.verdict.outcome} | {families} | {words} |"]
    return "\n".join(lines)


def _cell(entries: Iterable[Entry]) -> str:
    counts = Counter(entry.verdict.outcome for entry in entries)
    words = {outcome: f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome]}
    return ", ".join(f"**{text}**" if outcome == "FAIL" else text for outcome, text in words.items())


def as_data(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return the entries as data for JSON."""
    return [{**vars(entry), "verdict": asdict(entry.verdict)} for entry in entries]


def from_data(data: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Return the entries that `as_data` turned into data."""
    return [Entry(**{**entry, "verdict": Verdict(**entry["verdict"])}) for entry in data]


def _grouped(entries: Sequence[Entry], key: Callable[[Entry], Any]) -> dict[Any, list[Entry]]:
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return groups


def _written(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
