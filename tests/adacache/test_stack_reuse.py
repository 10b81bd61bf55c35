import math

import pytest
import torch

from adacache.options import BridgeConfig
from adacache.reuse.stack import ResidualHistory, taylor_coefficients

KINDS = ("hold", "linear", "fitted", "exponential")
HOLD = BridgeConfig("hold")
LINEAR, FITTED, EXPONENTIAL = (BridgeConfig(kind, weight=0.5) for kind in KINDS[1:])
TAYLOR = [BridgeConfig("taylor", order=order) for order in range(5)]


def history(bridge: BridgeConfig, *stored: tuple[int, list[float]]) -> ResidualHistory:
    result = ResidualHistory(bridge)
    for step, residual in stored:
        result.make_room()
        result.store(step, torch.tensor(residual))
    return result


def reused(kept: ResidualHistory, step: int) -> list[float]:
    """The residual of a reused step: what is added to zeros."""
    return kept.add(step, torch.zeros(2)).tolist()


def weights(kept: ResidualHistory) -> list[float]:
    return list(kept.read_weights().values())


def test_a_stored_residual_is_added_without_changing_what_it_is_added_to():
    kept = history(HOLD, (0, [10.0, 20.0]))
    hidden_states = torch.tensor([1.0, 2.0])
    assert kept.add(1, hidden_states).tolist() == [11.0, 22.0]
    assert hidden_states.tolist() == [1.0, 2.0]


def test_a_wider_residual_gives_the_dtype_that_the_blocks_gave():
    """As under autocast, where blocks turn bfloat16 into float32."""
    result = history(HOLD, (0, [10.0, 20.0])).add(1, torch.ones(2, dtype=torch.bfloat16))
    assert (result.dtype, result.tolist()) == (torch.float32, [11.0, 21.0])
    kept = ResidualHistory(HOLD)
    kept.store(0, torch.ones(2, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"is \(2,\) bfloat16, the hidden states are \(2,\) float32; start a new run"):
        kept.add(1, torch.ones(2))


def test_hold_keeps_the_latest_residual_whatever_came_before():
    assert reused(history(HOLD, (0, [1.0, 2.0]), (2, [5.0, 5.0])), 7) == [5.0, 5.0]


def test_a_bridge_holds_as_long_as_there_is_one_residual():
    for bridge in (LINEAR, FITTED, EXPONENTIAL, *TAYLOR):
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
    assert weights(kept) == [0, 0.5, pytest.approx(weight)]
    slope = [third[0] - 5, third[1] - 2]
    assert reused(kept, 5) == pytest.approx([third[0] + weight * slope[0] / 2, third[1] + weight * slope[1] / 2])


def test_the_fit_allows_for_gaps_of_different_length():
    # 4 within 2 steps, then 2 within 1 step: the slope stayed the same
    assert weights(history(FITTED, (0, [1.0, 0.0]), (2, [5.0, 0.0]), (3, [7.0, 0.0])))[-1] == pytest.approx(1)
    # 4 within 2 steps, then 2 within 4: the extrapolation, limited to 4, came true by half
    assert weights(history(FITTED, (0, [1.0, 0.0]), (2, [5.0, 0.0]), (6, [7.0, 0.0])))[-1] == pytest.approx(0.5)


def test_residuals_that_did_not_change_give_no_slope():
    kept = history(FITTED, (0, [5.0, 5.0]), (1, [5.0, 5.0]), (2, [5.0, 5.0]))
    assert weights(kept)[-1] == 0
    assert reused(kept, 3) == [5.0, 5.0]


@pytest.mark.parametrize("bridge", [FITTED, EXPONENTIAL])
def test_the_fit_is_made_in_float32_and_the_result_keeps_the_dtype(bridge):
    kept = ResidualHistory(bridge)
    for step, value in enumerate((256.0, 258.0, 260.0)):
        kept.store(step, torch.full((4,), value, dtype=torch.bfloat16))
    assert weights(kept)[-1] == 1
    assert kept.add(3, torch.zeros(4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_exponential_lets_changes_shrink_by_the_measured_factor():
    # Changes (4, 0) and (2, 3) over 2 steps each: the factor is (4 * 2 + 0 * 3) / (4^2 + 0^2) = 0.5.
    kept = history(EXPONENTIAL, (0, [1.0, 2.0]), (2, [5.0, 2.0]), (4, [7.0, 5.0]))
    assert weights(kept) == [0, 0.5, 0.5]
    assert reused(kept, 6) == pytest.approx([7 + 2 * 0.5, 5 + 3 * 0.5])
    assert reused(kept, 8) == pytest.approx([7 + 2 * 0.75, 5 + 3 * 0.75])  # 0.5 + 0.25
    assert reused(kept, 10) == pytest.approx([7 + 2 * 0.875, 5 + 3 * 0.875])  # three gaps on
    assert reused(kept, 400) == pytest.approx([7 + 2, 5 + 3])  # 0.5 + 0.25 + ... = 1
    share = 1 - math.sqrt(0.5)  # half a gap on: 0.5 * (1 - 0.5^0.5) / (1 - 0.5)
    assert reused(kept, 5) == pytest.approx([7 + 2 * share, 5 + 3 * share])


@pytest.mark.parametrize(
    ("third", "factor", "shares"),
    [
        ([9.0, 2.0], 1.0, (0.5, 1, 3)),  # went on as before: a straight line
        ([20.0, 2.0], 1.0, (0.5, 1, 3)),  # grew: taken for a straight line
        ([1.0, 2.0], 0.0, (0, 0, 0)),  # turned: held
        ([5.0, 2.0], 0.0, (0, 0, 0)),
    ],
)
def test_the_factor_of_an_exponential_lies_between_0_and_1(third, factor, shares):
    kept = history(EXPONENTIAL, (0, [1.0, 2.0]), (2, [5.0, 2.0]), (4, third))
    assert weights(kept)[-1] == factor
    for step, share in zip((5, 6, 10), shares, strict=True):
        assert reused(kept, step) == pytest.approx([third[0] + share * (third[0] - 5), 2.0])


def test_an_exponential_allows_for_gaps_of_different_length_and_begins_with_the_weight():
    # 4 within 2 steps, then 4 within 4: half as much per step, so 0.5 per gap of 4 steps.
    kept = history(EXPONENTIAL, (0, [1.0, 0.0]), (2, [5.0, 0.0]), (6, [9.0, 0.0]))
    assert reused(kept, 14)[0] == pytest.approx(9 + 4 * 0.75)
    # Of two residuals nothing is known yet.
    assert reused(history(EXPONENTIAL, (0, [1.0, 0.0]), (2, [5.0, 0.0])), 6)[0] == pytest.approx(5 + 4 * 0.75)
    assert reused(history(EXPONENTIAL, (0, [5.0, 5.0]), (1, [5.0, 5.0]), (2, [5.0, 5.0])), 3) == [5.0, 5.0]


def test_taylor_of_first_order_follows_the_slope_without_a_limit():
    kept = history(TAYLOR[1], (0, [7.0, 7.0]), (1, [1.0, 2.0]), (5, [5.0, 2.0]))  # a change of 4 and 0 over 4 steps
    assert reused(kept, 6) == [5 + 1, 2.0]
    assert reused(kept, 30) == [5 + 25, 2.0]


def test_taylor_of_second_order_bends_the_slope_by_its_own_change():
    # Residuals 0, 1, 9 at steps 0, 1, 3: D1 is 1 at step 1 and 8 / 2 = 4 at step 3, where D2 is (4 - 1) / 2 = 1.5.
    kept = history(TAYLOR[2], (0, [0.0, 5.0]), (1, [1.0, 5.0]), (3, [9.0, 5.0]))
    assert reused(kept, 4) == [9 + 4 * 1 + 1.5 * 1 / 2, 5.0]
    assert reused(kept, 5) == [9 + 4 * 2 + 1.5 * 4 / 2, 5.0]
    # In residuals: D1 = (r3 - r1) / 2 and D2 = r3 / 4 - 3/4 r1 + r0 / 2, so that step 4 gets
    assert taylor_coefficients([0, 1, 3], 4) == [0.25, -0.5 - 0.375, 1 + 0.5 + 0.125]


@pytest.mark.parametrize("order", [2, 3, 4])
def test_taylor_with_two_residuals_knows_no_more_than_a_slope(order):
    assert reused(history(TAYLOR[order], (0, [1.0, 2.0]), (4, [5.0, 2.0])), 6) == [5 + 2, 2.0]


def test_taylor_of_order_zero_holds():
    assert reused(history(TAYLOR[0], (0, [1.0, 2.0]), (2, [5.0, 5.0])), 7) == [5.0, 5.0]


@pytest.mark.parametrize("order", range(5))
def test_taylor_coefficients_are_those_of_differences_that_are_updated_step_by_step(order):
    residuals = torch.randn(20, generator=torch.Generator().manual_seed(order), dtype=torch.float64)
    kept, differences, last = ResidualHistory(TAYLOR[order]), [], 0
    for step in range(20):
        if step in (0, 1, 2, 4, 9, 12):
            updated = [residuals[step]]
            for k, old in enumerate(differences[:order]):
                updated.append((updated[k] - old) / (step - last))
            differences, last = updated, step
            kept.store(step, residuals[step : step + 1])
        else:
            series = sum(d * (step - last) ** k / math.factorial(k) for k, d in enumerate(differences))
            forecast = kept.add(step, torch.zeros(1, dtype=torch.float64))
            assert forecast.item() == pytest.approx(series.item(), rel=1e-9)


def test_taylor_keeps_the_dtype_and_loses_little_of_what_hardly_changes():
    kept = ResidualHistory(TAYLOR[2])
    for step, value in enumerate((256.0, 258.0, 260.0)):  # next to each other in bfloat16
        kept.store(step, torch.full((4,), value, dtype=torch.bfloat16))
    forecast = kept.add(4, torch.zeros(4, dtype=torch.bfloat16))
    assert forecast.dtype == torch.bfloat16
    assert forecast.tolist() == [264.0] * 4


TAYLOR_MEMORY = [(TAYLOR[0], 0, 1), (TAYLOR[1], 2, 2), (TAYLOR[2], 3, 3)]
MEMORY = [(HOLD, 0, 1), (LINEAR, 2, 2), (FITTED, 2, 2), (EXPONENTIAL, 2, 2), *TAYLOR_MEMORY]


@pytest.mark.parametrize(("bridge", "before", "after"), MEMORY)
def test_memory_is_what_the_bridge_needs_also_while_the_next_is_computed(bridge, before, after):
    kept = history(bridge, (0, [1.0, 2.0]), (1, [2.0, 3.0]), (2, [2.0, 3.0]))
    one = 2 * 4
    assert sum(tensor.nbytes for tensor in kept.kept) == after * one
    kept.make_room()
    assert sum(tensor.nbytes for tensor in kept.kept) == before * one


@pytest.mark.parametrize("other", [torch.ones(1, 4), torch.ones(2, dtype=torch.float64)])
def test_another_shape_or_dtype_is_refused_in_words(other):
    with pytest.raises(ValueError, match=r"\(2,\) float32, the hidden states are .*new run"):
        history(HOLD, (0, [1.0, 2.0])).add(1, other)


def test_graphs_are_not_kept_alive():
    kept = ResidualHistory(HOLD)
    kept.store(0, torch.ones(3, requires_grad=True) * 2)
    assert not kept.add(1, torch.zeros(3)).requires_grad


def test_bridges_of_older_files_have_no_order():
    older = {"kind": "fitted", "weight": 0.5, "max_ratio": 1.0}
    assert BridgeConfig.from_value(older) == BridgeConfig("fitted", weight=0.5)
    assert BridgeConfig.from_value(TAYLOR[3].to_dict()) == TAYLOR[3]


@pytest.mark.parametrize("order", [-1, 5, 1.0, True, None])
def test_a_wrong_order_is_refused(order):
    with pytest.raises(ValueError, match="bridge order must be a whole number from 0 to 4, got"):
        BridgeConfig("taylor", order=order)
