import pytest
import torch

from adacache import Site
from adacache.observer import ResidualObserver
from adacache.sites import metric_sites

SITE = Site("temporal", 1, "attn")


def residual(value: float, tokens: int = 4) -> torch.Tensor:
    return torch.full((1, tokens, 2), value)


def forward(observer: ResidualObserver, *reported: tuple[Site, torch.Tensor], strides: tuple[int, ...] = ()) -> None:
    observer.begin_forward(tokens_per_frame=2, strides=strides)
    for site, tensor in reported:
        observer.observe(site, tensor)
    observer.end_forward()


def test_the_first_forward_pass_measures_nothing_and_later_ones_compare_with_the_one_before():
    observer = ResidualObserver(((SITE,),))
    forward(observer, (SITE, residual(4.0)))
    assert observer.read_out() == []
    forward(observer, (SITE, residual(5.0)))
    assert observer.read_out() == [(SITE, 0.25, None)]
    forward(observer, (SITE, residual(10.0)))
    assert observer.read_out() == [(SITE, 1.0, None)]
    assert observer.read_out() == []


def test_motion_is_measured_where_strides_are_given():
    observer = ResidualObserver(((SITE,),))
    forward(observer, (SITE, residual(1.0)), strides=(1,))
    moving = torch.cat([residual(1.0, 2), residual(3.0, 2)], dim=1)
    forward(observer, (SITE, moving), strides=(1,))
    assert observer.read_out() == [(SITE, 1.0, 0.5)]  # |0| + |2| over 1 + 1; |3 - 1| over 3 + 1


def test_one_frame_has_no_motion():
    observer = ResidualObserver(((SITE,),))
    for value in (1.0, 2.0):
        forward(observer, (SITE, residual(value, tokens=2)), strides=(1,))
    assert observer.read_out() == [(SITE, 1.0, None)]


def test_the_parts_of_a_group_are_added_and_observed_once():
    spatial, temporal = metric_sites("ca-mlp", (1,))
    observer = ResidualObserver((spatial, temporal))
    for scale in (1.0, 1.5):
        parts = [(site, residual(scale * value)) for site, value in zip(spatial, (3.0, 1.0), strict=True)]
        parts += [(site, residual(value)) for site, value in zip(temporal, (scale, -1.0 - scale), strict=True)]
        forward(observer, *parts)
    # 4 becomes 6, and -1 stays -1 although both of its parts changed
    assert observer.read_out() == [(spatial[-1], 0.5, None), (temporal[-1], 0.0, None)]


def test_sites_nobody_asked_for_are_not_kept():
    observer = ResidualObserver(((SITE,),))
    forward(observer, (Site("spatial", 1, "attn"), residual(9.0)), (SITE, residual(1.0)))
    assert observer.nbytes == residual(1.0).nbytes
    observer.free()
    assert observer.nbytes == 0


def test_a_branch_that_never_came_is_named():
    observer = ResidualObserver(((SITE,),))
    with pytest.raises(RuntimeError, match="never reported temporal block 1 attn; choose metric_blocks"):
        forward(observer, (Site("temporal", 0, "attn"), residual(1.0)))
    forward(observer, (SITE, residual(1.0)))
    with pytest.raises(RuntimeError, match="never reported"):
        forward(observer)


def test_graphs_are_not_kept_alive():
    observer = ResidualObserver(((SITE,),))
    forward(observer, (SITE, residual(1.0).requires_grad_() * 2))
    forward(observer, (SITE, residual(1.0).requires_grad_() * 2))
    assert not any(kept.fetch().requires_grad for kept in observer.kept)
    assert observer.read_out() == [(SITE, 0.0, None)]
