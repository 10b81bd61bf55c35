"""The risk study's arithmetic, on numbers worked out by hand."""

from __future__ import annotations

import pytest

from adacache import StepRecord, Trace
from bench.studies.risk import Draft, candidates, markdown, rank_correlation, summarize


def trace(first: float, second: float, bridge_weight: float | None = None, motion: float | None = None) -> Trace:
    """Eight steps, 0, 3 and 7 computed, the time halved after step 3."""
    distances = {0: None, 3: first, 7: second}
    records = [
        StepRecord(
            i, (1000.0, 900.0, 800.0, 700.0, 650.0, 600.0, 550.0, 500.0)[i], i in distances,
            distance=distances.get(i),
            motion_score=motion if distances.get(i) else None,
            bridge_weight=bridge_weight if i in distances else None,
        )
        for i in range(8)
    ]  # fmt: skip
    return Trace(8, records)


def test_candidates_of_a_trace():
    found = candidates(trace(0.1, 0.3, bridge_weight=0.25, motion=0.5))
    first, second = 0.1 * 200 / 1000, 0.3 * 150 / 1000
    assert found == pytest.approx(
        {
            "risk": first + second,
            "steps alike": 0.1 * 2 / 8 + 0.3 * 3 / 8,
            "first half": first + second,  # both gaps begin there
            "second half": 0,
            "risk x motion": (first + second) / 2,
            "risk x (1 - bridge weight)": 0.75 * (first + second),
            "1 - bridge weight": 0.75,
        }
    )
    assert set(candidates(trace(0.1, 0.3))) == {"risk", "steps alike", "first half", "second half"}


def test_rank_correlations_of_known_orders():
    assert rank_correlation([1, 5, 9], [2, 3, 40]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3], [2, 1, 3]) == pytest.approx(0.5)
    assert rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(3**0.5 / 2)  # ranks 0.5, 0.5, 2
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0


def test_captions_are_summed_up_apart_and_together():
    # Within a, more risk is less PSNR; within b it is the other way round.
    drafts = [Draft("a", trace(risk, risk), psnr) for risk, psnr in ((0.1, 40), (0.2, 30), (0.3, 20))]
    drafts += [Draft("b", trace(risk, risk), psnr) for risk, psnr in ((0.4, 10), (0.5, 12), (0.6, 14))]
    summary = summarize(drafts)
    assert summary["risk"]["within"] == 0
    assert summary["risk"]["error"] == pytest.approx(1)
    assert summary["risk"]["pairs"] == 0.5
    assert summary["risk"]["all"] == pytest.approx(1 - 6 * (2**2 + 2**2) / (6 * 35))
    assert "| risk | +0.77 | +0.00 ± 1.00 | 50% |" in markdown(summary)
