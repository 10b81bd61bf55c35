"""Differences at equal compute and ratios, on numbers worked out by hand."""

from __future__ import annotations

import pytest

from bench.summary import CurvePoint, at_compute, difference, estimate, mean_ratio

# The baseline: at 10 steps 30 and 40 dB for two prompts, at 14 steps 34 and 42 dB.
CURVE = [CurvePoint(14.0, {0: 34.0, 1: 42.0}), CurvePoint(10.0, {0: 30.0, 1: 40.0})]


def test_a_curve_is_interpolated_prompt_by_prompt():
    assert at_compute(CURVE, 11.0) == {0: 31.0, 1: 40.5}
    assert at_compute(CURVE, 10.0) == {0: 30.0, 1: 40.0}
    assert at_compute(CURVE, 14.0) == {0: 34.0, 1: 42.0}


def test_a_curve_reaches_a_little_beyond_its_ends():
    assert at_compute(CURVE, 9.71) == {0: 30.0, 1: 40.0}
    assert at_compute(CURVE, 14.29) == {0: 34.0, 1: 42.0}
    assert at_compute(CURVE, 9.69) is None
    assert at_compute(CURVE, 14.31) is None
    assert at_compute([], 10.0) is None
    assert at_compute(CURVE[:1], 14.1) == {0: 34.0, 1: 42.0}


def test_equal_computes_do_not_divide_by_zero():
    assert at_compute([CurvePoint(10.0, {0: 1.0}), CurvePoint(10.0, {0: 3.0})], 10.0) in ({0: 1.0}, {0: 3.0})


def test_gains_are_paired():
    # At 12 steps the baseline has 32 and 41 dB: gains of 2 and 4.
    gain = difference(CurvePoint(12.0, {0: 34.0, 1: 45.0}), CURVE)
    assert gain.mean == pytest.approx(3.0)
    assert (gain.low, gain.high) == (pytest.approx(2.0), pytest.approx(4.0))
    assert difference(CurvePoint(20.0, {0: 34.0, 1: 45.0}), CURVE) is None
    # A prompt that only one of the two has does not count.
    assert difference(CurvePoint(12.0, {0: 34.0, 7: 45.0}), CURVE).mean == pytest.approx(2.0)


def test_a_constant_has_no_interval():
    assert estimate({0: 5.0, 1: 5.0}) == (5.0, 5.0, 5.0)


def test_ratios_are_averaged_geometrically():
    assert mean_ratio({0: 2.0, 1: 8.0}).mean == pytest.approx(4.0)
    assert mean_ratio({0: 2.0, 1: 0.5}).mean == pytest.approx(1.0)
