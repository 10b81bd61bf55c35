"""A schedule from magnitudes: errors add up until they are too large, or too many steps were reused."""

from __future__ import annotations

import pytest

from adacache import StepController
from adacache.policies.magcache import MagCacheConfig


def planned(num_steps: int, ratios: list[float], **options) -> tuple[int, ...]:
    """The computed steps where nothing but the first step is retained."""
    return MagCacheConfig(ratios, **{"retention": 0, "max_skips": 99, **options}).planned_steps(num_steps)


def test_errors_add_up_to_the_threshold():
    # Step 1: product 0.9, error 0.1: reused. Step 2: product 0.81, error 0.1 + 0.19 = 0.29: computed, and so on.
    assert planned(6, [0.9] * 5, threshold=0.25) == (0, 2, 4)
    # Step 3: product 0.729, error 0.29 + 0.271 = 0.561.
    assert planned(6, [0.9] * 5, threshold=0.3) == (0, 3)
    assert planned(6, [0.9] * 5, threshold=0.09) == (0, 1, 2, 3, 4, 5)
    assert planned(6, [0.9] * 5, threshold=9) == (0,)


def test_the_product_starts_anew_at_a_computed_step():
    # Step 1: error 0.5, computed. From there on nothing changes any more.
    assert planned(5, [0.5, 1, 1, 1], threshold=0.1) == (0, 1)


def test_growing_and_shrinking_do_not_make_up_for_each_other():
    # Products 1.25, 1, 1.25 with errors 0.25, 0.25, 0.5: step 3 is computed. Signed they would be -0.25, -0.25, -0.5.
    assert planned(4, [1.25, 0.8, 1.25], threshold=0.4) == (0, 3)


def test_an_error_just_at_the_threshold_is_allowed():
    assert planned(3, [0.75, 1], threshold=0.25) == (0, 2)  # errors 0.25, 0.5


def test_only_so_many_steps_in_a_row_are_reused():
    assert planned(8, [1] * 7, max_skips=2) == (0, 3, 6)
    assert planned(8, [1] * 7, max_skips=1) == (0, 2, 4, 6)


def test_the_first_part_of_the_run_is_computed():
    # 0.2 of 30 steps are the first 6; of those that follow, 3 of 4 are reused.
    assert MagCacheConfig([1] * 29).planned_steps(30) == (0, 1, 2, 3, 4, 5, 9, 13, 17, 21, 25, 29)
    assert planned(10, [1] * 9, retention=0.25) == (0, 1, 2)  # 2.5 is rounded up
    assert planned(3, [1] * 2, retention=1) == (0, 1, 2)


def test_the_ratio_of_every_step_is_its_own():
    # Only step 4 differs from the one before: it is computed, and so is no other.
    assert planned(6, [1, 1, 1, 0.5, 1], threshold=0.1) == (0, 4)


def test_a_run_of_another_length_takes_the_nearest_ratios():
    config = MagCacheConfig([0.5, 1, 1, 1], threshold=0.1, max_skips=99, retention=0)
    # Of 9 steps, step k is as far in the run as step k / 2 of 5: steps 1 and 2 take the first ratio, the others 1.
    assert config.planned_steps(9) == (0, 1, 2)
    # Of 3 steps, step 1 is step 2 of 5 and step 2 is step 4: the first ratio is nobody's.
    assert config.planned_steps(3) == (0,)
    assert config.doubt(5) is None
    assert "measured with 5 sampling steps, but this run has 9" in config.doubt(9)


def test_ratios_that_begin_with_the_first_step_are_pointed_out():
    """Diffusers' and the official MagCache's do."""
    assert "leave the 1 out" in MagCacheConfig([1.0, 1.02, 0.99, 0.98]).doubt(4)
    assert MagCacheConfig([1.0, 1.02, 0.99, 0.98]).doubt(5) is None


@pytest.mark.parametrize("retention", [0, 0.2, 1])
def test_a_run_of_one_step_computes_it(retention):
    assert MagCacheConfig([1] * 29, retention=retention).planned_steps(1) == (0,)


def test_a_run_follows_the_plan(model, tokens):
    controller = StepController(MagCacheConfig([0.9] * 5, threshold=0.25, retention=0))
    with controller.run(num_steps=6):
        for step in range(6):
            controller.begin_step(step)
            model(tokens(10.0), controller)
    assert controller.trace.computed_steps == [0, 2, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": []}, "ratios must be a list of finite numbers above 0, one for every step but the first, got"),
        ({"ratios": "1, 1"}, "ratios must be a list"),
        ({"ratios": 1.0}, "ratios must be a list"),
        ({"ratios": [1, 0]}, "ratios must be a list"),
        ({"ratios": [1, float("nan")]}, "ratios must be a list"),
        ({"threshold": 0}, "threshold must be a finite number above 0, got 0"),
        ({"threshold": "0.1"}, "threshold must be"),
        ({"max_skips": 0}, "max_skips must be a whole number >= 1, got 0"),
        ({"retention": -0.1}, "retention must be a fraction of the run between 0 and 1, got -0.1"),
        ({"retention": 6}, "retention must be"),
        ({"retention": None}, "retention must be"),
    ],
)
def test_wrong_values_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        MagCacheConfig(**{"ratios": [1, 1], **options})
