"""Say what a bench found: which policy is best at each budget, by how much, and where ours is behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report.data import COSTS, compute_of

NEAR = 0.5  # equivalent steps within which a point without a budget belongs to one, and costs are compared
_COMPARED_COSTS = ("denoise_seconds", "cache_mb")


@dataclass(frozen=True)
class Best:
    """The best point of a budget, by its gain over the baseline at equal compute in the first metric.

    `gain` is None for the baseline itself, and where no gain is known; then the best mean counts.
    """

    budget: int
    policy: Mapping[str, Any]
    gain: Mapping[str, float] | None
    value: Mapping[str, float]

    @property
    def is_clear(self) -> bool:
        """Whether the interval of the gain is on one side of zero."""
        return self.gain is not None and (self.gain["low"] > 0 or self.gain["high"] < 0)


@dataclass(frozen=True)
class Lead:
    """A policy that is ahead of ours: where (a budget, or the steps that it computed), by how much, and if clearly."""

    policy: str
    steps: float
    amount: float
    is_clear: bool


@dataclass(frozen=True)
class Loss:
    """A quantity in which ours is behind, and a phrase on each policy ahead, with a * if that is not clear."""

    title: str
    phrases: tuple[str, ...]
    is_clear: bool


class Findings:
    """Sentences and numbers for the head of the page, all of them derived from the content of bench.json."""

    def __init__(self, bench: Mapping[str, Any]) -> None:
        self._points: Sequence[Mapping[str, Any]] = bench["points"]
        self._policies = {policy["name"]: policy for policy in bench["policies"]}
        self._metrics: Sequence[Mapping[str, Any]] = bench["metrics"]
        # Points of further budgets only lengthen the curves that others are compared with.
        given = {point["budget"] for point in self._points if point["budget"] is not None}
        self._budgets: Sequence[int] = bench["setting"].get("budgets") or sorted(given)
        self._steps = bench["setting"].get("num_steps")
        self.metric = self._metrics[0]
        self.baseline = self._policies[bench["baseline"]]
        # The policy that others were compared with in pairs; it matters here only if it is ours.
        best = self._policies.get(bench.get("best") or "")
        self.ours = best if best and best.get("ours") else None

    @property
    def bests(self) -> list[Best]:
        """The best policy of each budget that has points."""
        return [best for budget in self._budgets if (best := self._best(budget)) is not None]

    @property
    def headline(self) -> str:
        """Which policy is best at which budgets, and by how much, the one with the most first; "" without any."""
        groups: dict[str, list[Best]] = {}
        for best in self.bests:
            groups.setdefault(best.policy["name"], []).append(best)
        if not groups:
            return ""
        steps = f" of {self._steps} computed steps" if self._steps else " computed steps"
        whom = f" {self.baseline['title']} at equal compute"  # said once
        parts: list[str] = []
        for group in sorted(groups.values(), key=len, reverse=True):
            title, budgets = group[0].policy["title"], _budgets(group)
            start = f"at {budgets} it is {title}"
            if not parts:
                start = f"{title} has the best {self.metric['title']} at {budgets}{steps}"
            amount = self._above(group, whom)
            whom = "" if amount else whom
            parts.append(start + amount)
        return "; ".join(parts) + "."

    @property
    def losses(self) -> list[Loss]:
        """Every metric, and time and memory, in which `ours` is behind another policy at equal compute."""
        if self.ours is None:
            return []
        losses = [self._loss(metric, self._leads(metric)) for metric in self._metrics]
        losses += [self._loss(cost, self._cheaper(cost["key"])) for cost in COSTS if cost["key"] in _COMPARED_COSTS]
        return [loss for loss in losses if loss.phrases]

    def gain_text(self, gain: Mapping[str, float]) -> str:
        """Format the mean of a gain with its sign and its unit."""
        return _signed(gain["mean"], self.metric["digits"]) + _unit(self.metric["unit"])

    def interval_text(self, gain: Mapping[str, float]) -> str:
        """Format the interval of a gain."""
        return " to ".join(_signed(gain[end], self.metric["digits"]) for end in ("low", "high"))

    def value_text(self, value: Mapping[str, float]) -> str:
        """Format a value of the first metric with its unit."""
        return f"{value['mean']:.{self.metric['digits']}f}{_unit(self.metric['unit'])}"

    def _above(self, group: Sequence[Best], whom: str) -> str:
        gains = [best for best in group if best.gain is not None]
        if not gains:
            return ""
        amounts = _list(f"{abs(best.gain['mean']):.{self.metric['digits']}f}" for best in gains)
        signs = {best.gain["mean"] >= 0 for best in gains}
        direction = {True: "above", False: "below"}[signs.pop()] if len(signs) == 1 else "from"
        unclear = [best for best in gains if not best.is_clear]
        note = f" (the interval includes zero at {_budgets(unclear)})" if unclear else ""
        return f", {amounts}{_unit(self.metric['unit'])} {direction}{whom}{note}"

    def _at(self, budget: int) -> Iterator[Mapping[str, Any]]:
        for point in self._points:
            stray = point["budget"] is None and abs(compute_of(point) - budget) <= NEAR
            if point["budget"] == budget or stray:
                yield point

    def _best(self, budget: int) -> Best | None:
        key, sign = self.metric["key"], _sign(self.metric)
        points = [point for point in self._at(budget) if point["values"].get(key)]
        if not points:
            return None
        # Means at different compute cannot be compared; gains can, and the baseline's own is 0.
        gained = {id(point): gain["mean"] for point in points if (gain := _entry(point, "gain", key))}
        if gained:
            gained |= {id(point): 0.0 for point in points if self._is_baseline(point)}
            point = max((p for p in points if id(p) in gained), key=lambda point: sign * gained[id(point)])
        else:
            point = max(points, key=lambda point: sign * point["values"][key]["mean"])
        gain = None if self._is_baseline(point) else _entry(point, "gain", key)
        return Best(budget, self._policies[point["policy"]], gain, point["values"][key])

    def _is_baseline(self, point: Mapping[str, Any]) -> bool:
        return point["policy"] == self.baseline["name"]

    def _rivals(self) -> Iterator[Mapping[str, Any]]:
        for point in self._points:
            is_shown = point["budget"] is None or point["budget"] in self._budgets
            if is_shown and not self._policies[point["policy"]].get("ours"):
                yield point

    def _leads(self, metric: Mapping[str, Any]) -> Iterator[Lead]:
        """Yield by how much others are ahead of ours in a metric, in paired differences at equal compute."""
        for point in self._rivals():
            if difference := _entry(point, "to_best", metric["key"]):
                is_clear = difference["low"] > 0 or difference["high"] < 0
                yield Lead(point["policy"], _steps(point), _sign(metric) * difference["mean"], is_clear)

    def _cheaper(self, key: str) -> Iterator[Lead]:
        """Yield by how much others cost less than ours at the same budget and about the same compute."""
        own = {point["budget"]: point for point in self._points if point["policy"] == self.ours["name"]}
        for point in self._rivals():
            ours = own.get(point["budget"])
            if ours is None or abs(compute_of(point) - compute_of(ours)) > NEAR:
                continue
            mine, theirs = ours["values"].get(key), point["values"].get(key)
            if mine and theirs:
                is_clear = theirs["high"] <= mine["low"]
                yield Lead(point["policy"], _steps(point), mine["mean"] - theirs["mean"], is_clear)

    def _loss(self, quantity: Mapping[str, Any], leads: Iterable[Lead]) -> Loss:
        """Return for each budget the policy that is furthest ahead, as phrases by policy."""
        furthest: dict[float, Lead] = {}
        for lead in leads:
            known = furthest.get(lead.steps)
            if round(lead.amount, quantity["digits"]) > 0 and (known is None or lead.amount > known.amount):
                furthest[lead.steps] = lead
        groups: dict[str, list[Lead]] = {}
        for _, lead in sorted(furthest.items()):
            groups.setdefault(lead.policy, []).append(lead)
        is_clear = all(lead.is_clear for lead in furthest.values())
        return Loss(quantity["title"], tuple(self._phrase(group, quantity) for group in groups.values()), is_clear)

    def _phrase(self, leads: Sequence[Lead], quantity: Mapping[str, Any]) -> str:
        amounts = [f"{lead.amount:.{quantity['digits']}f}" for lead in leads]
        amount = amounts[0] if len(set(amounts)) == 1 else _list(amounts)
        places = _list(f"{lead.steps:g}{'' if lead.is_clear else '*'}" for lead in leads)
        return f"{self._policies[leads[0].policy]['title']} at {places} steps by {amount}{_unit(quantity['unit'])}"


def _entry(point: Mapping[str, Any], table: str, key: str) -> Mapping[str, float] | None:
    return (point.get(table) or {}).get(key)


def _steps(point: Mapping[str, Any]) -> float:
    """Return the number that names a point: its budget or, without one, its compute."""
    return round(compute_of(point), 1) if point["budget"] is None else point["budget"]


def _sign(metric: Mapping[str, Any]) -> int:
    return -1 if metric["better"] == "lower" else 1


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""


def _budgets(group: Sequence[Best]) -> str:
    return _list(str(best.budget) for best in group)


def _list(items: Iterable[str]) -> str:
    """Join items as "a", "a and b" or "a, b and c"."""
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last
