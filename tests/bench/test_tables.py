"""A bench in plain text."""

from __future__ import annotations

from bench.output import markdown_tables, terminal_tables


def estimate(mean: float, half: float = 0.5) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def point(policy: str, budget: int | None, psnr: float, gain: float | None, **options) -> dict:
    values = {"computed_steps": 8.0, "compute": 8.1, "psnr": psnr, "psnr_exact": psnr - 3, "speedup": 3.2}
    return {
        "policy": policy,
        "budget": budget,
        "options": {"policy": policy, "bridge": {"kind": "hold"}, **options},
        "values": {key: estimate(value) for key, value in values.items()},
        "gain": {"psnr": None if gain is None else estimate(gain)},
    }


BENCH = {
    "setting": {"num_steps": 30, "budgets": [8]},
    "baseline": "adacache",
    "policies": [
        {"name": "adacache", "title": "AdaCache", "ours": False},
        {"name": "calibrated", "title": "Calibrated (ours)", "ours": True},
        {"name": "fixed", "title": "Fixed interval", "ours": False},
    ],
    "points": [
        point("adacache", 7, 28.0, None),
        point("adacache", 8, 30.0, None),
        point("calibrated", 8, 33.0, 3.0),
        point("fixed", None, 29.0, None, interval=4),
    ],
}


def test_policies_are_sorted_by_psnr_at_each_budget():
    lines = terminal_tables(BENCH).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("8 of 30 steps"))
    assert " ".join(lines[start + 2].split()) == "Calibrated (ours) 8.0 8.1 33.00 +3.00 ± 0.50 30.00 3.20x"
    assert " ".join(lines[start + 3].split()) == "AdaCache 8.0 8.1 30.00 27.00 3.20x"
    assert lines[-1].startswith("Fixed interval (interval=4)")


def test_markdown_has_a_column_per_budget():
    assert markdown_tables(BENCH).splitlines() == [
        "| policy | 8 of 30 steps |",
        "|---|---|",
        "| AdaCache | 30.0 dB |",
        "| **Calibrated (ours)** | 33.0 dB (+3.0 ± 0.5) |",
        "",
        "| policy | setting | compute (steps) | PSNR dB | over AdaCache |",
        "|---|---|---|---|---|",
        "| Fixed interval | `interval=4` | 8.1 | 29.0 | - |",
    ]
