import numpy as np
import pytest

from adacache.calibration.recording import Recording, gains_from_probes, gram_of_sketches


def test_the_gram_holds_inner_products_per_element():
    sketches = np.array([[[1, 2], [3, 4]], [[0, 0], [2, 0]]], np.float32)  # two videos of two steps, two elements
    assert gram_of_sketches(sketches).tolist() == [[[2.5, 5.5], [5.5, 12.5]], [[0, 0], [0, 2]]]


def test_the_gram_is_summed_in_float64():
    # Two residuals that differ in the last bits of float32 only: their distance is what errors are made of.
    one = np.full(100_000, 1000, np.float32)
    other = one + np.float32(2**-10)
    gram = gram_of_sketches(np.stack([one, other])[None])[0]
    assert gram[0, 0] - 2 * gram[0, 1] + gram[1, 1] == pytest.approx(2.0**-20, rel=1e-3)


def test_gains_are_effects_over_errors_and_geometric_in_between():
    effects = np.array([[4.0, 3.0], [32.0, 3.0]])  # probes at steps 2 and 4, two videos
    errors = np.array([[1.0, 3.0], [2.0, 30.0]])
    gains = gains_from_probes([2, 4], effects, errors, num_steps=6)
    assert gains[0] == pytest.approx([4, 4, 4, 8, 16, 16])
    assert gains[1] == pytest.approx([1, 1, 1, 10**-0.5, 0.1, 0.1])


def test_a_probe_without_error_or_effect_gives_a_finite_gain():
    gains = gains_from_probes([1, 2], np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]]), num_steps=3)
    assert gains[0] == pytest.approx([1, 1, 1])


def test_the_number_of_steps_is_that_of_the_gains():
    assert Recording(np.zeros((2, 5, 5)), np.ones((2, 5)), np.ones(2)).num_steps == 5


@pytest.mark.parametrize(
    ("gram", "power"),
    [(np.zeros((2, 5, 4)), np.ones(2)), (np.zeros((1, 5, 5)), np.ones(2)), (np.zeros((2, 5, 5)), np.ones(3))],
)
def test_shapes_that_do_not_belong_together_are_refused(gram, power):
    with pytest.raises(ValueError, match="do not belong to 2 videos of 5 steps"):
        Recording(gram, np.ones((2, 5)), power)


@pytest.mark.parametrize("place", range(3))
def test_overflown_runs_are_refused(place):
    values = [np.zeros((1, 3, 3)), np.ones((1, 3)), np.ones(1)]
    values[place].flat[0] = np.inf
    with pytest.raises(ValueError, match="not finite; sample with dtype bf16 or fp32"):
        Recording(*values)
