"""What is measured of residuals, by hand and through a meter."""

import pytest
import torch

from adacache import Site
from adacache.meters import BranchMeter, change_terms, motion_score, motion_terms, ratio
from adacache.sites import metric_sites


def test_relative_change_is_the_sum_of_differences_over_the_sum_before():
    previous = torch.tensor([[[1.0, -2.0], [3.0, -4.0]]])  # sum of magnitudes 10
    current = torch.tensor([[[1.5, -2.0], [2.0, -5.0]]])  # differences 0.5, 0, 1, 1
    assert ratio(*change_terms(previous, current)).item() == 0.25
    assert ratio(*change_terms(current, previous)).item() == pytest.approx(2.5 / 10.5)
    assert [term.item() for term in change_terms(previous, current)] == [2.5, 10.0]


def test_nothing_to_change_is_no_change_and_a_change_from_nothing_is_infinite():
    zeros, ones = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    assert ratio(*change_terms(zeros, zeros)).item() == 0
    assert ratio(*change_terms(zeros, ones)).item() == float("inf")
    assert ratio(*change_terms(ones, zeros)).item() == 1
    assert ratio(*change_terms(ones, ones * float("nan"))).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_distance_is_float32_whatever_came_in(dtype):
    previous = torch.full((2, 300, 50), 1.0, dtype=dtype)
    current = torch.full((2, 300, 50), 1.0078125, dtype=dtype)  # 1 + 2**-7, the next bfloat16 after 1
    distance = ratio(*change_terms(previous, current))
    assert distance.dtype == torch.float32
    assert distance.shape == ()
    assert distance.item() == pytest.approx(2**-7, rel=1e-6)  # a sum in bfloat16 would stop growing at 256


def test_sums_over_millions_of_elements_are_exact_enough():
    previous = torch.full((1, 1000, 4000), 1.1)  # added up one by one in float32: 4.22e6
    change, magnitude = change_terms(previous, torch.zeros_like(previous))
    assert magnitude.item() == pytest.approx(4.4e6, rel=1e-6)
    assert change.item() == pytest.approx(4.4e6, rel=1e-6)


def test_differences_that_bfloat16_cannot_hold_are_kept():
    previous, current = torch.tensor([[[256.0]]]).bfloat16(), torch.tensor([[[1.0078125]]]).bfloat16()
    assert ratio(*change_terms(previous, current)).item() == (256 - 1.0078125) / 256  # in bfloat16: 255 / 256


def test_inputs_are_left_as_they_were():
    previous, current = torch.full((1, 2, 2), 3.0), torch.full((1, 2, 2), 1.0)
    ratio(*change_terms(previous, current))
    assert previous.eq(3).all()
    assert current.eq(1).all()


def test_the_distance_stays_on_the_device():
    # Tensors on "meta" have no values: whoever wanted to look at one would get an error.
    previous = torch.empty(1, 4, 2, device="meta", dtype=torch.bfloat16)
    assert ratio(*change_terms(previous, previous)).device.type == "meta"


def test_another_shape_is_refused_although_it_would_broadcast():
    with pytest.raises(ValueError, match=r"\(1, 4, 2\).*\(1, 1, 2\).*new run"):
        ratio(*change_terms(torch.ones(1, 1, 2), torch.ones(1, 4, 2)))


def frames(*values: float, tokens_per_frame: int = 2) -> torch.Tensor:
    """A residual (1, frames * tokens_per_frame, 3) in which every frame has one value."""
    return torch.tensor(values).repeat_interleave(tokens_per_frame).view(1, -1, 1).expand(1, -1, 3)


def score(residual: torch.Tensor, tokens_per_frame: int, strides: tuple[int, ...]) -> torch.Tensor | None:
    return motion_score(motion_terms(residual, tokens_per_frame, strides))


def test_the_score_compares_each_frame_with_the_next():
    # differences 2 and 1 over later (3, 2) and earlier (1, 3) frames: (2 + 1) / (5 + 4)
    assert score(frames(1.0, 3.0, 2.0), 2, (1,)).item() == pytest.approx(3 / 9)


def test_the_score_is_the_mean_over_the_strides():
    # stride 1 as above; stride 2 compares 2 with 1: 1 / 3
    residual = frames(1.0, 3.0, 3.0)  # stride 1: 2 / (6 + 4); stride 2: 2 / (3 + 1)
    assert score(residual, 2, (1,)).item() == pytest.approx(0.2)
    assert score(residual, 2, (2,)).item() == pytest.approx(0.5)
    assert score(residual, 2, (1, 2)).item() == pytest.approx(0.35)


def test_frames_are_runs_of_tokens():
    residual = torch.tensor([1.0, 5.0, 1.0, 5.0]).view(1, 4, 1)
    assert score(residual, 2, (1,)).item() == 0  # two equal frames of two tokens
    assert score(residual, 1, (1,)).item() == pytest.approx(12 / 18)  # four frames of one token


def test_a_still_residual_has_no_motion_and_opposite_frames_the_most():
    assert score(frames(2.0, 2.0), 2, (1,)).item() == 0
    assert score(frames(0.0, 0.0), 2, (1,)).item() == 0
    assert score(frames(2.0, -2.0), 2, (1,)).item() == 1


def test_strides_without_a_pair_of_frames_are_left_out():
    residual = frames(1.0, 3.0, 3.0)
    assert score(residual, 2, (1, 3, 7)).item() == pytest.approx(0.2)
    assert score(residual, 2, (3,)) is None


def test_an_image_has_no_motion():
    assert score(frames(1.0), 2, (1,)) is None


def test_the_score_is_a_float32_scalar_on_the_device():
    found = score(torch.empty(2, 6, 3, device="meta", dtype=torch.bfloat16), 2, (1, 2))
    assert (found.dtype, found.shape, found.device.type) == (torch.float32, (), "meta")


def test_tokens_that_make_no_whole_frames_are_refused():
    with pytest.raises(ValueError, match="7 tokens.*tokens_per_frame=2"):
        score(torch.ones(1, 7, 3), 2, (1,))
    with pytest.raises(ValueError, match="tokens_per_frame=0"):
        score(torch.ones(1, 7, 3), 0, (1,))


SITE = Site("temporal", 1, "attn")


def residual(value: float, tokens: int = 4) -> torch.Tensor:
    return torch.full((1, tokens, 2), value)


def forward(observer: BranchMeter, *reported: tuple[Site, torch.Tensor], strides: tuple[int, ...] = ()) -> None:
    observer.begin_forward(tokens_per_frame=2, strides=strides)
    for site, tensor in reported:
        observer.observe(site, tensor)
    observer.end_forward()


def test_the_first_forward_pass_measures_nothing_and_later_ones_compare_with_the_one_before():
    observer = BranchMeter(((SITE,),))
    forward(observer, (SITE, residual(4.0)))
    assert observer.read_out() == []
    forward(observer, (SITE, residual(5.0)))
    assert observer.read_out() == [(SITE, 0.25, None)]
    forward(observer, (SITE, residual(10.0)))
    assert observer.read_out() == [(SITE, 1.0, None)]
    assert observer.read_out() == []


def test_motion_is_measured_where_strides_are_given():
    observer = BranchMeter(((SITE,),))
    forward(observer, (SITE, residual(1.0)), strides=(1,))
    moving = torch.cat([residual(1.0, 2), residual(3.0, 2)], dim=1)
    forward(observer, (SITE, moving), strides=(1,))
    assert observer.read_out() == [(SITE, 1.0, 0.5)]  # |0| + |2| over 1 + 1; |3 - 1| over 3 + 1


def test_one_frame_has_no_motion():
    observer = BranchMeter(((SITE,),))
    for value in (1.0, 2.0):
        forward(observer, (SITE, residual(value, tokens=2)), strides=(1,))
    assert observer.read_out() == [(SITE, 1.0, None)]


def test_the_parts_of_a_group_are_added_and_observed_once():
    spatial, temporal = metric_sites("ca-mlp", (1,))
    observer = BranchMeter((spatial, temporal))
    for scale in (1.0, 1.5):
        parts = [(site, residual(scale * value)) for site, value in zip(spatial, (3.0, 1.0), strict=True)]
        parts += [(site, residual(value)) for site, value in zip(temporal, (scale, -1.0 - scale), strict=True)]
        forward(observer, *parts)
    # 4 becomes 6, and -1 stays -1 although both of its parts changed
    assert observer.read_out() == [(spatial[-1], 0.5, None), (temporal[-1], 0.0, None)]


def test_sites_nobody_asked_for_are_not_kept():
    observer = BranchMeter(((SITE,),))
    forward(observer, (Site("spatial", 1, "attn"), residual(9.0)), (SITE, residual(1.0)))
    assert [kept.nbytes for kept in observer.kept] == [residual(1.0).nbytes]
    observer.free()
    assert observer.kept == []


def test_a_branch_that_never_came_is_named():
    observer = BranchMeter(((SITE,),))
    with pytest.raises(RuntimeError, match="never reported temporal block 1 attn; choose metric_blocks"):
        forward(observer, (Site("temporal", 0, "attn"), residual(1.0)))
    forward(observer, (SITE, residual(1.0)))
    with pytest.raises(RuntimeError, match="never reported"):
        forward(observer)


def test_graphs_are_not_kept_alive():
    observer = BranchMeter(((SITE,),))
    forward(observer, (SITE, residual(1.0).requires_grad_() * 2))
    forward(observer, (SITE, residual(1.0).requires_grad_() * 2))
    assert not any(kept.fetch().requires_grad for kept in observer.kept)
    assert observer.read_out() == [(SITE, 0.0, None)]
