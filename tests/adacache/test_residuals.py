import pytest
import torch

from adacache.bridge import BridgeConfig
from adacache.residuals import ResidualHistory

HOLD, LINEAR, FITTED = (BridgeConfig(kind, weight=0.5) for kind in ("hold", "linear", "fitted"))


def history(bridge: BridgeConfig, *stored: tuple[int, list[float]]) -> ResidualHistory:
    result = ResidualHistory(bridge)
    for step, residual in stored:
        result.make_room()
        result.store(step, torch.tensor(residual))
    return result


def reused(kept: ResidualHistory, step: int) -> list[float]:
    """The residual of a reused step: what is added to zeros."""
    return kept.add(step, torch.zeros(2)).tolist()


def test_a_stored_residual_is_added_without_changing_what_it_is_added_to():
    kept = history(HOLD, (0, [10.0, 20.0]))
    hidden_states = torch.tensor([1.0, 2.0])
    assert kept.add(1, hidden_states).tolist() == [11.0, 22.0]
    assert hidden_states.tolist() == [1.0, 2.0]


def test_hold_keeps_the_latest_residual_whatever_came_before():
    assert reused(history(HOLD, (0, [1.0, 2.0]), (2, [5.0, 5.0])), 7) == [5.0, 5.0]


def test_a_bridge_holds_as_long_as_there_is_one_residual():
    for bridge in (LINEAR, FITTED):
        assert reused(history(bridge, (0, [3.0, 4.0])), 5) == [3.0, 4.0]


def test_linear_follows_the_slope_in_proportion_to_the_gap_and_no_further_than_the_gap_before():
    kept = history(LINEAR, (0, [1.0, 2.0]), (4, [5.0, 2.0]))  # a change of 4 and 0 over 4 steps
    assert reused(kept, 5) == [5 + 0.5 * 1, 2.0]
    assert reused(kept, 8) == [5 + 0.5 * 4, 2.0]
    assert reused(kept, 30) == [5 + 0.5 * 4, 2.0]


def test_a_larger_max_ratio_goes_further():
    kept = history(BridgeConfig("linear", weight=0.5, max_ratio=2), (0, [1.0, 2.0]), (4, [5.0, 2.0]))
    assert reused(kept, 30) == [5 + 0.5 * 8, 2.0]


@pytest.mark.parametrize(
    ("third", "weight"),
    [
        ([9.0, 2.0], 1.0),  # went on as before
        ([7.0, 2.0], 0.5),  # half as fast
        ([7.0, 9.0], 0.5),  # only the part along the slope counts
        ([5.0, 2.0], 0.0),  # stood still
        ([1.0, 2.0], 0.0),  # turned
        ([20.0, 2.0], 1.0),  # faster than before: not trusted further than it was seen
    ],
)
def test_the_fitted_weight_is_the_share_of_the_last_extrapolation_that_came_true(third, weight):
    kept = history(FITTED, (0, [1.0, 2.0]), (2, [5.0, 2.0]), (4, third))
    assert kept.read_weights() == [0, 0.5, pytest.approx(weight)]
    slope = [third[0] - 5, third[1] - 2]
    assert reused(kept, 5) == pytest.approx([third[0] + weight * slope[0] / 2, third[1] + weight * slope[1] / 2])


def test_the_fit_allows_for_gaps_of_different_length():
    # 4 within 2 steps, then 2 within 1 step: the slope stayed the same
    assert history(FITTED, (0, [1.0, 0.0]), (2, [5.0, 0.0]), (3, [7.0, 0.0])).read_weights()[-1] == pytest.approx(1)
    # 4 within 2 steps, then 2 within 4: the extrapolation, limited to 4, came true by half
    assert history(FITTED, (0, [1.0, 0.0]), (2, [5.0, 0.0]), (6, [7.0, 0.0])).read_weights()[-1] == pytest.approx(0.5)


def test_residuals_that_did_not_change_give_no_slope():
    kept = history(FITTED, (0, [5.0, 5.0]), (1, [5.0, 5.0]), (2, [5.0, 5.0]))
    assert kept.read_weights()[-1] == 0
    assert reused(kept, 3) == [5.0, 5.0]


def test_the_fit_is_made_in_float32_and_the_result_keeps_the_dtype():
    kept = ResidualHistory(FITTED)
    for step, value in enumerate((256.0, 258.0, 260.0)):
        kept.store(step, torch.full((4,), value, dtype=torch.bfloat16))
    assert kept.read_weights()[-1] == 1
    assert kept.add(3, torch.zeros(4, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(("bridge", "before", "after"), [(HOLD, 0, 1), (LINEAR, 2, 2), (FITTED, 2, 2)])
def test_memory_is_one_residual_or_two_also_while_the_next_is_computed(bridge, before, after):
    kept = history(bridge, (0, [1.0, 2.0]), (1, [2.0, 3.0]), (2, [2.0, 3.0]))
    one = 2 * 4
    assert kept.nbytes == after * one
    kept.make_room()
    assert kept.nbytes == before * one


@pytest.mark.parametrize("other", [torch.ones(1, 4), torch.ones(2, dtype=torch.bfloat16)])
def test_another_shape_or_dtype_is_refused_in_words(other):
    with pytest.raises(ValueError, match=r"\(2,\) float32, the hidden states are .*new run"):
        history(HOLD, (0, [1.0, 2.0])).add(1, other)


def test_graphs_are_not_kept_alive():
    kept = ResidualHistory(HOLD)
    kept.store(0, torch.ones(3, requires_grad=True) * 2)
    assert not kept.add(1, torch.zeros(3)).requires_grad
