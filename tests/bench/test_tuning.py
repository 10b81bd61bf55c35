"""Scaling AdaCache's codebook to a budget, with computed steps that are a formula."""

from __future__ import annotations

import pytest

from bench.tuning import Tried, best_codebook, scaled_codebook


def test_the_published_codebook_scales():
    assert scaled_codebook(6, 1.0).rates == (6, 5, 4, 3, 2, 1)
    assert scaled_codebook(3, 0.5).rates == (3, 2, 2, 2, 1, 1)
    assert scaled_codebook(3, 0.5).thresholds == pytest.approx((0.04, 0.08, 0.12, 0.16, 0.20))


@pytest.mark.parametrize(("count", "holds"), [(8, {8, 10}), (10, {6, 8}), (12, {5, 6}), (15, {4, 5}), (20, {3, 4})])
def test_longest_holds_go_by_the_mean_gap(count, holds):
    tried = []
    best_codebook(lambda codebook: tried.append(codebook) or Tried(count, 0.0), 30, count)
    assert {codebook.rates[0] for codebook in tried} == holds


def test_tuning_finds_the_factor_that_gives_the_count():
    # A model whose steps fall with the thresholds: 16 steps at 0.05, 8 at 0.1 ...
    codebook, steps = best_codebook(lambda codebook: Tried(0.8 / codebook.thresholds[0], 0.0), 30, 10)
    assert steps == pytest.approx(10, abs=0.15)
    assert codebook.thresholds[0] == pytest.approx(0.08, abs=0.002)


def test_of_two_longest_holds_the_better_is_taken():
    def run(codebook, better):
        return Tried(0.8 / codebook.thresholds[0], 0.0 if codebook.rates[0] == better else 1.0)

    for better in (6, 8):
        codebook, steps = best_codebook(lambda c, better=better: run(c, better), 30, 10)
        assert codebook.rates[0] == better
        assert steps == pytest.approx(10, abs=0.15)


def test_a_longest_hold_that_misses_the_count_is_not_taken():
    def run(codebook):
        return Tried(14.0 if codebook.rates[0] == 6 else 0.8 / codebook.thresholds[0], float(codebook.rates[0]))

    assert best_codebook(run, 30, 10)[0].rates[0] == 8


def test_if_no_longest_hold_meets_the_count_the_nearest_is_taken():
    holds: list[int] = []

    def run(codebook):
        holds.append(codebook.rates[0])
        return Tried(9.0 if codebook.rates[0] == holds[0] else 8.6, 0.0)

    codebook, steps = best_codebook(run, 30, 8)
    assert steps == 8.6
    assert codebook.rates[0] != holds[0]
