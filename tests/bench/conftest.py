"""Plans and rows that the tests of the bench share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.plan import BenchPlan, plan_from_dict
from support import small_model


@pytest.fixture
def entries() -> dict[str, Any]:
    """The entries of a small plan."""
    return {
        "sample": small_model.SAMPLE,
        "budgets": (5, 7),
        "prompts": "assets/prompts/mini_bench.txt",
        "tuning_prompts": "assets/prompts/mini_calibration.txt",
        "num_prompts": 2,
        "num_seeds": 1,
        "tuning_clips": 1,
        "policies": {
            "adacache": {
                "title": "AdaCache",
                "tune": "codebook",
                "cache": {"policy": "adacache", "metric_blocks": (2,)},
            },
            "fixed": {
                "title": "Fixed interval",
                "cache": {"policy": "fixed"},
                "settings": [{"interval": 2}, {"interval": 3}],
            },
            "euler_steps": {"title": "Fewer steps", "steps": True, "solver": "euler"},
        },
    }


@pytest.fixture
def plan(entries) -> BenchPlan:
    return plan_from_dict(entries)


@pytest.fixture
def write_plan(tmp_path) -> Callable[[dict[str, Any]], Path]:
    """Write entries as a plan's file."""

    def write(entries: dict[str, Any]) -> Path:
        path = tmp_path / "small.py"
        path.write_text("".join(f"{key} = {value!r}\n" for key, value in entries.items()))
        return path

    return write
