import pytest
import torch

from adacache.distance import change_terms, relative_change


def test_relative_change_is_the_sum_of_differences_over_the_sum_before():
    previous = torch.tensor([[[1.0, -2.0], [3.0, -4.0]]])  # sum of magnitudes 10
    current = torch.tensor([[[1.5, -2.0], [2.0, -5.0]]])  # differences 0.5, 0, 1, 1
    assert relative_change(previous, current).item() == 0.25
    assert relative_change(current, previous).item() == pytest.approx(2.5 / 10.5)
    assert [term.item() for term in change_terms(previous, current)] == [2.5, 10.0]


def test_nothing_to_change_is_no_change_and_a_change_from_nothing_is_infinite():
    zeros, ones = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    assert relative_change(zeros, zeros).item() == 0
    assert relative_change(zeros, ones).item() == float("inf")
    assert relative_change(ones, zeros).item() == 1
    assert relative_change(ones, ones * float("nan")).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_distance_is_float32_whatever_came_in(dtype):
    previous = torch.full((2, 300, 50), 1.0, dtype=dtype)
    current = torch.full((2, 300, 50), 1.0078125, dtype=dtype)  # 1 + 2**-7, the next bfloat16 after 1
    distance = relative_change(previous, current)
    assert distance.dtype == torch.float32
    assert distance.shape == ()
    assert distance.item() == pytest.approx(2**-7, rel=1e-6)  # a sum in bfloat16 would stop growing at 256


def test_sums_over_millions_of_elements_are_exact_enough():
    previous = torch.full((1, 5000, 4000), 1.1)  # added up one by one in float32: 2.37e7
    change, magnitude = change_terms(previous, torch.zeros_like(previous))
    assert magnitude.item() == pytest.approx(2.2e7, rel=1e-6)
    assert change.item() == pytest.approx(2.2e7, rel=1e-6)


def test_differences_that_bfloat16_cannot_hold_are_kept():
    previous, current = torch.tensor([[[256.0]]]).bfloat16(), torch.tensor([[[1.0078125]]]).bfloat16()
    assert relative_change(previous, current).item() == (256 - 1.0078125) / 256  # in bfloat16: 255 / 256


def test_inputs_are_left_as_they_were():
    previous, current = torch.full((1, 2, 2), 3.0), torch.full((1, 2, 2), 1.0)
    relative_change(previous, current)
    assert previous.eq(3).all()
    assert current.eq(1).all()


def test_the_distance_stays_on_the_device():
    # Tensors on "meta" have no values: whoever wanted to look at one would get an error.
    previous = torch.empty(1, 4, 2, device="meta", dtype=torch.bfloat16)
    assert relative_change(previous, previous).device.type == "meta"


def test_another_shape_is_refused_although_it_would_broadcast():
    with pytest.raises(ValueError, match=r"\(1, 4, 2\).*\(1, 1, 2\).*new run"):
        relative_change(torch.ones(1, 1, 2), torch.ones(1, 4, 2))
