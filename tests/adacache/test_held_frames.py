"""Frames that are held are not measured, and a frame that joins is not given what was made without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from adacache import AdaCacheConfig, BridgeConfig, Codebook, Site, StepController
from adacache.frames import FrameSet
from adacache.meters import BranchMeter, SignalMeter, change_terms, motion_score, motion_terms, ratio
from adacache.outcome import surprises
from adacache.policies.base import Decision, OutputChange, PolicyConfig
from adacache.policies.easycache import EasyCacheConfig, EasyCachePolicy
from adacache.policies.fbcache import FBCacheConfig
from adacache.policies.fixed import FixedIntervalConfig
from adacache.policies.magcache import MagCacheConfig
from adacache.policies.pab import PABConfig
from adacache.policies.seacache import SeaCacheConfig
from adacache.policies.static import StaticScheduleConfig
from adacache.policies.taylorseer import TaylorSeerConfig
from adacache.policies.teacache import TeaCacheConfig
from adacache.reuse.output import OutputHistory
from adacache.reuse.stack import ResidualHistory
from adacache.storage import TensorStore

SITE = Site("temporal", 0, "attn")
STEPS = 16
JOINS = 7  # the step in which the held frame joins
HELD, BOTH = [False, True], [True, True]


def frames(*values: float, tokens: int = 2) -> Tensor:
    """(1, frames * tokens, 1), every frame of one value."""
    return torch.tensor(values).repeat_interleave(tokens).view(1, -1, 1)


# What is measured


@pytest.mark.parametrize("apart", [False, True])
def test_the_distance_of_a_video_held_in_part_is_that_of_the_rest(apart):
    torch.manual_seed(0)
    before, after = torch.randn(2, 8, 3), torch.randn(2, 8, 3)  # four frames of two tokens
    observer = BranchMeter(((SITE,),))
    for residual in (before, after):
        observer.begin_forward(2, (), FrameSet(((False, False, True, True),)))
        observer.observe(SITE, residual.unflatten(1, (4, 2)) if apart else residual)
        observer.end_forward()
    [(_, distance, _)] = observer.read_out()
    assert distance == pytest.approx(ratio(*change_terms(before[:, 4:], after[:, 4:])).item(), rel=1e-6)


def test_it_is_of_the_frames_that_were_generated_in_both_steps_and_motion_of_the_later_one_s():
    observer = BranchMeter(((SITE,),))
    steps = [(frames(5.0, 2.0, 4.0), (False, True, True)), (frames(1.0, 3.0, 4.0), (True, True, True))]
    for residual, generated in steps:
        observer.begin_forward(2, (1,), FrameSet((generated,)))
        observer.observe(SITE, residual)
        observer.end_forward()
    # frames 1 and 2: |3 - 2| + |4 - 4| over 2 + 4; motion of all: (2 + 1) / (3 + 1 + 4 + 3)
    assert observer.read_out() == [(SITE, pytest.approx(1 / 6), pytest.approx(3 / 11))]


def test_nothing_in_common_is_no_measurement():
    observer = BranchMeter(((SITE,),))
    for generated in ((False, False), (False, False), (True, False)):
        observer.begin_forward(2, (1,), FrameSet((generated,)))
        observer.observe(SITE, frames(1.0, 2.0))
        observer.end_forward()
        assert observer.read_out() == []


def test_motion_is_that_of_the_generated_frames():
    residual = frames(9.0, 9.0, 1.0, 3.0, 2.0)

    def score(generated: tuple[bool, ...], *strides: int) -> Tensor | None:
        return motion_score(motion_terms(residual, 2, strides, FrameSet((generated,))))

    rest = (False, False, True, True, True)
    assert score(rest, 1).item() == pytest.approx(3 / 9)  # (2 + 1) / (1 + 3 + 3 + 2)
    assert score(rest, 1, 2).item() == pytest.approx((3 / 9 + 1 / 3) / 2)
    assert score((False, True, False, False, True), 1) is None  # a frame between two that are held


def test_a_signal_is_compared_where_it_is_generated():
    meter = SignalMeter("previous", TensorStore())
    generated = FrameSet(((False, True),))
    meter.settle(frames(8.0, 2.0), computed=True)
    difference, magnitude = meter.measure(frames(8.0, 3.0), generated)
    assert (difference.item(), magnitude.item()) == (1, 2)
    assert [value.item() for value in meter.measure(frames(8.0, 3.0))] == [0.5, 5]
    assert meter.measure(frames(8.0, 3.0), FrameSet(((False, False),))) is None


def test_outputs_are_compared_where_they_are_generated():
    history, generated = OutputHistory(TensorStore()), FrameSet(((False, True),))

    def latents(held: float, other: float) -> Tensor:
        return torch.tensor([held, other]).view(1, 1, 2, 1, 1)

    history.store(latents(5, 1), latents(9, 2))
    measured = history.measure(latents(5, 4), latents(0, 8), generated)
    assert [value.item() for value in measured] == [8, 3, 6]  # of the output, then the changes of input and output
    assert history.measure(latents(5, 4), latents(0, 8), FrameSet(((False, False),))) == []


def test_a_bridge_is_fitted_to_generated_frames():
    def store_all(held: Sequence[float], generated: FrameSet) -> float:
        history = ResidualHistory(BridgeConfig("fitted"))
        for step, (first, second) in enumerate(zip(held, (1.0, 2.0, 2.5), strict=True)):
            history.store(step, frames(first, second), generated)
        return list(history.read_weights().values())[-1]

    generated = FrameSet(((False, True),))
    # The generated frame rose by 1 and then by a half; the held one would say 0.
    assert store_all((1, 9, 1), generated) == pytest.approx(0.5)
    assert store_all((1, 9, 1), FrameSet()) == 0


# What is reused


class Model:
    """Every token's residual is the mean of its row, so that frames see each other; one channel of latents."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, tokens: Tensor, controller: StepController) -> Tensor:
        latents = tokens.unflatten(1, (2, 2))  # (B, T, S, C), in dimension 1 its frames
        mean = tokens.mean(1, keepdim=True).expand_as(tokens)

        def run_blocks(x: Tensor, rows: Tensor | None = None) -> Tensor:
            self.rows.append(len(x))
            own = mean if rows is None else mean[rows]
            return x + controller.branch(SITE, lambda: own.clone()) + controller.branch(SITE_2, lambda: 0 * own)

        signals: dict[str, Callable[[], Tensor]] = {
            "latents": lambda: latents.movedim(-1, 2)[..., None],  # (B, T, C, H, W)
            "modulated_input": lambda: tokens,
            "first_block": lambda: 0.1 * mean,
        }
        out = controller.stack(tokens, run_blocks, 2, signals=signals)
        as_video = out.unflatten(1, (2, 2)).movedim(-1, 1)  # (B, C, T, S)
        return controller.output(latents.movedim(-1, 1), as_video).movedim(1, -1).flatten(1, 2)


SITE_2 = Site("spatial", 0, "attn")
POLICIES: dict[str, PolicyConfig] = {
    "adacache": AdaCacheConfig(Codebook((), (5,)), metric_blocks=(0,)),
    "moreg": AdaCacheConfig(Codebook((), (5,)), metric_blocks=(0,), moreg=True),
    "fitted": AdaCacheConfig(Codebook((), (5,)), metric_blocks=(0,), bridge="fitted"),
    "static": StaticScheduleConfig((0, 1, 5, 12), metric="t-attn", metric_blocks=(0,), bridge="linear"),
    "fixed": FixedIntervalConfig(5),
    "taylorseer": TaylorSeerConfig(order=2),
    "magcache": MagCacheConfig((1.0,) * (STEPS - 1), max_skips=4),
    "teacache": TeaCacheConfig((1.0, 0.0), threshold=0.5),
    "fbcache": FBCacheConfig(threshold=0.5),
    "easycache": EasyCacheConfig(threshold=1.0, warmup=2),
    "seacache": SeaCacheConfig(threshold=1.0),
    "pab": PABConfig(spatial=4, temporal=5, window=(0, 1000), mlp_times=()),
}


def run(
    config: PolicyConfig, masks: Sequence[Sequence[bool] | None], seeds: Sequence[int] = (0,), told: bool = True
) -> tuple[Tensor, StepController]:
    """Tokens (videos, 4, 1) at the end, with one guidance branch; a mask holds the video's first frame until JOINS."""
    start = torch.cat([torch.rand(1, 4, 1, generator=torch.Generator().manual_seed(seed)) + 1 for seed in seeds])
    noise = torch.cat([torch.rand(1, 4, 1, generator=torch.Generator().manual_seed(seed + 99)) for seed in seeds])
    controller, model, tokens = StepController(config), Model(), start
    with controller.run(STEPS, len(seeds)):
        for step in range(STEPS):
            generated = [BOTH if mask is None or step >= JOINS else list(mask) for mask in masks]
            controller.begin_step(step, 900.0 - 50 * step, generated if told else None)
            taking_part = torch.tensor(generated).repeat_interleave(2, 1)[..., None]
            if step == JOINS:
                joins = torch.tensor([mask is not None and not mask[0] for mask in masks])
                tokens = torch.where(joins.view(-1, 1, 1) & (torch.arange(4).view(1, 4, 1) < 2), 9 * noise, tokens)
            out = model(torch.cat([tokens, tokens]), controller).chunk(2)[0]
            tokens = torch.where(taking_part, tokens + 0.01 * out, tokens)
    assert controller.nbytes == 0
    return tokens, controller


@pytest.mark.parametrize("name", POLICIES)
def test_the_step_in_which_a_frame_joins_is_computed(name):
    _, controller = run(POLICIES[name], [HELD])
    records = controller.trace.records
    assert [record.index for record in records if record.joined] == [JOINS]
    assert records[JOINS].computed
    _, stale = run(POLICIES[name], [HELD], told=False)
    assert not any(record.joined for record in stale.trace.records)
    if name == "pab":
        assert records[JOINS].computed_share == 1 and stale.trace.records[JOINS].computed_share < 1
    else:
        assert controller.trace.num_reused > 0


@pytest.mark.parametrize("name", POLICIES)
def test_a_video_that_is_generated_as_a_whole_keeps_every_bit_of_its_schedule(name):
    plain, told = (run(POLICIES[name], [None], told=told) for told in (False, True))
    assert torch.equal(plain[0], told[0])
    without_times = [
        [(r.index, r.computed, r.distance, r.value, r.rate, r.joined) for r in c.trace.records]
        for _, c in (plain, told)
    ]
    assert without_times[0] == without_times[1]


@pytest.mark.parametrize("name", POLICIES)
def test_a_video_with_a_mask_is_no_matter_to_one_without(name):
    masks, seeds = [HELD, None, [True, False]], (1, 2, 3)
    together, controller = run(POLICIES[name], masks, seeds)
    for index, (mask, seed) in enumerate(zip(masks, seeds, strict=True)):
        alone, own = run(POLICIES[name], [mask], [seed])
        torch.testing.assert_close(together[index], alone[0], rtol=0, atol=1e-5)
        assert controller.traces[index].computed_steps == own.trace.computed_steps


def test_one_schedule_for_a_batch_computes_the_step_for_all():
    config = AdaCacheConfig(Codebook((), (5,)), metric_blocks=(0,), schedule="batch")
    _, controller = run(config, [HELD, None], (1, 2))
    assert controller.traces[0] is controller.traces[1]
    assert controller.trace.records[JOINS].joined and controller.trace.records[JOINS].computed


@pytest.mark.parametrize("name", POLICIES)
def test_a_video_that_is_held_as_a_whole_stays_as_it_is(name):
    config = POLICIES[name]
    controller, model = StepController(config), Model()
    tokens = torch.rand(2, 4, 1)
    with controller.run(STEPS):
        for step in range(STEPS):
            controller.begin_step(step, 900.0 - 50 * step, [[False, False]])
            model(tokens, controller)
    assert all(record.distance is None for record in controller.trace.records)
    assert controller.nbytes == 0
    if name in ("adacache", "moreg", "fitted", "teacache", "fbcache", "easycache", "seacache"):
        assert controller.trace.num_computed == STEPS  # nothing was measured, so nothing may be reused


@pytest.mark.parametrize(("bridge", "expected"), [("linear", 5.0), ({"kind": "taylor", "order": 1}, 5.0)])
def test_a_bridge_starts_from_hold_after_a_frame_joined(bridge, expected):
    # Residuals of the computed steps 0, 1 and 3 are 1, 2 and 5; at step 3 a frame joins, so that 4 adds 5 again.
    added = []
    controller = StepController(StaticScheduleConfig((0, 1), bridge=bridge))
    with controller.run(5):
        for step in range(5):
            controller.begin_step(step, None, [BOTH if step >= 3 else HELD])
            residual = {0: 1.0, 1: 2.0, 3: 5.0}.get(step)
            x = torch.zeros(1, 4, 1)
            added.append(controller.stack(x, lambda h, residual=residual: h + residual, 2)[0, 0, 0].item())
    assert controller.trace.computed_steps == [0, 1, 3]
    assert added[2] > 2 and added[4] == expected


# How policies take a step that they did not ask for


def test_adacache_divides_by_the_steps_between_and_goes_on_from_there():
    # Every interval is 5 steps: 0, 1, 6, then 7 as the frame joins, 12, and the last two.
    _, controller = run(POLICIES["adacache"], [HELD])
    assert controller.trace.computed_steps == [0, 1, 6, 7, 12, 14, 15]


def test_adacache_s_distance_at_a_join_is_one_per_step():
    controller = StepController(AdaCacheConfig(Codebook((), (6,)), metric_blocks=(0,)))
    with controller.run(12):
        for step in range(5):
            controller.begin_step(step, None, [BOTH if step >= 4 else HELD])
            x = torch.full((1, 4, 1), 1.0 + (step >= 4))
            controller.stack(x, lambda h: h + controller.branch(SITE, lambda h=h: h.clone()), 2)
    # From step 1 to step 4 the residual doubled: a third per step, not a sixth.
    assert controller.trace.records[4].distance == pytest.approx(1 / 3)


def test_a_plan_goes_on_as_it_was_written():
    for name, expected in (
        ("static", [0, 1, 5, JOINS, 12]),
        ("fixed", [0, 5, JOINS, 10, 15]),
        ("taylorseer", [0, 1, 2, 4, JOINS, 9, 14]),
        ("magcache", [0, 1, 2, JOINS, 12]),
    ):
        _, controller = run(POLICIES[name], [HELD])
        assert controller.trace.computed_steps == expected, name
        by_index = {record.index: record.rate for record in controller.trace.records}
        following = next(step for step in [*expected, STEPS] if step > JOINS)
        assert by_index[JOINS] == following - JOINS


def test_a_joined_step_is_no_surprise():
    _, controller = run(POLICIES["static"], [HELD])
    assert surprises(controller.trace, POLICIES["static"]) == []


@pytest.mark.parametrize("name", ["teacache", "fbcache", "easycache", "seacache"])
def test_policies_by_signal_compute_without_a_change_and_add_up_anew(name):
    policy = POLICIES[name].make_policy(STEPS)
    assert policy.decide(3, None).compute
    assert policy.decide(4, None) == Decision(True)


def test_easycache_learns_its_rate_anew():
    policy = EasyCachePolicy(threshold=1.0, warmup=1, num_steps=9)
    policy.observe_output(1, OutputChange(1.0, 1.0, 1.0))
    policy.observe_output(2, OutputChange(None, None, 1.0))  # the step in which frames joined
    assert policy.decide(3, None).compute


# What is refused


def test_frames_that_are_not_the_model_s_are_refused():
    controller = StepController(POLICIES["adacache"])
    message = "4 tokens, 2 per frame, do not match the 3 frames that generated_frames"
    with pytest.raises(ValueError, match=message), controller.run(2):
        with pytest.raises(ValueError, match="for each of the 1 videos"):
            controller.begin_step(0, None, [HELD, HELD])
        controller.begin_step(0, None, [[True, False, True]])  # the refused call changed nothing
        Model()(torch.ones(1, 4, 1), controller)


def test_a_signal_without_frames_is_refused():
    controller = StepController(TeaCacheConfig((1.0, 0.0)))
    with (
        pytest.raises(ValueError, match=r"signal 'modulated_input' has shape \(1, 3, 2\), but dimension 1"),
        controller.run(1),
    ):
        controller.begin_step(0, None, [HELD])
        signals = {"modulated_input": lambda: torch.ones(1, 3, 2)}
        controller.stack(torch.ones(1, 4, 1), lambda h: h + 1, 2, signals=signals)


def test_an_output_of_other_frames_is_refused():
    controller = StepController(EasyCacheConfig())
    with pytest.raises(ValueError, match="dimension 2 must hold the 2 frames"), controller.run(1):
        controller.begin_step(0, None, [HELD])
        controller.stack(torch.ones(1, 4, 1), lambda h: h + 1, 2, signals={"latents": lambda: torch.ones(1, 2, 1)})
        controller.output(torch.ones(1, 1, 3), torch.ones(1, 1, 3))
