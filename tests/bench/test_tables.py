"""A bench in plain text."""

from __future__ import annotations

from bench.output import markdown_tables, terminal_tables
from bench.report.data import load_bench
from bench.report.table import _best
from opensora.files import REPO_ROOT


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
    "setting": {"num_steps": 30},
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
        point("fixed", None, 28.0, None, interval=5),
        point("fixed", None, 29.0, None, interval=4),
    ],
}


def test_no_gain_is_the_best_where_the_baseline_is_ahead():
    metrics = [{"key": "psnr", "better": "higher", "digits": 1}]

    def best(gain: float) -> set[tuple[str, int]]:
        points = [point("adacache", 8, 30.0, None), point("fixed", 8, 29.0, gain)]
        return _best({**BENCH, "metrics": metrics, "points": points}, [8])

    assert ("gain_psnr", 1) not in best(-0.02)
    assert ("gain_psnr", 1) in best(0.02)


def test_policies_are_sorted_by_psnr_at_each_budget():
    lines = terminal_tables(BENCH).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("8 of 30 steps"))
    assert " ".join(lines[start + 2].split()) == "Calibrated (ours) 8.0 8.1 33.00 +3.0 (+2.5 to +3.5) 30.00 3.20x"
    assert " ".join(lines[start + 3].split()) == "AdaCache 8.0 8.1 30.00 27.00 3.20x"
    assert [line.split("  ")[0] for line in lines[-2:]] == [
        "Fixed interval (interval 4)",
        "Fixed interval (interval 5)",
    ]


def test_the_tables_of_the_documentation_are_those_of_its_results():
    bench = load_bench(REPO_ROOT / "docs/bench")
    document = (REPO_ROOT / "docs/bench.md").read_text()
    tables = markdown_tables(bench).split("\n\n")
    assert len(tables) == 4
    assert all(table in document for table in tables)
