"""PAB reuses single branches at intervals, and MLPs after certain times."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from adacache import Site, StepController
from adacache.policies.pab import PABConfig

TEN = [1000.0 - 100 * step for step in range(10)]  # 1000, 900, ..., 100
THIRTY = [1000 * (1 - step / 30) for step in range(30)]


def reused(config: PABConfig, stream: str, part: str, times: Sequence[float] = TEN, block: int = 0) -> list[int]:
    """The steps at which one branch is reused in a run with these times."""
    policy, found = config.make_policy(len(times)), []
    for step, time in enumerate(times):
        policy.begin_step(step, time)
        found += [] if policy.computes(Site(stream, block, part)) else [step]
    return found


def test_attention_is_computed_at_intervals_inside_the_window():
    config = PABConfig()  # 2, 4, 6 between 450 and 930, where steps 1 (900) to 5 (500) lie
    assert reused(config, "spatial", "attn") == [1, 3, 5]
    assert reused(config, "temporal", "attn") == [1, 2, 3, 5]
    assert reused(config, "spatial", "cross") == reused(config, "temporal", "cross") == [1, 2, 3, 4, 5]


def test_every_block_is_treated_alike():
    assert reused(PABConfig(), "temporal", "attn", block=27) == [1, 2, 3, 5]


def test_both_ends_of_the_window_are_outside():
    times = [1000, 930, 929.5, 450.5, 450]
    assert reused(PABConfig(spatial=9), "spatial", "attn", times) == [2, 3]


def test_the_first_step_is_computed_though_it_lies_inside():
    assert reused(PABConfig(mlp_times=(900,)), "spatial", "cross", [800, 700, 600]) == [1, 2]
    assert reused(PABConfig(mlp_times=(900,)), "spatial", "mlp", [800, 700, 600, 500]) == [1, 2]


def test_an_interval_of_1_reuses_nothing():
    config = PABConfig(spatial=1)
    assert reused(config, "spatial", "attn") == []
    assert reused(config, "spatial", "cross") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("stream", ["spatial", "temporal"])
def test_mlps_are_held_after_the_first_step_at_or_below_a_time(stream):
    # 850: from step 2 (800), 300: from step 7 (300 itself)
    config = PABConfig(mlp_times=(300, 850), mlp_hold=2, mlp_blocks=(1, 3))
    assert reused(config, stream, "mlp", block=3) == [3, 4, 8, 9]
    assert reused(config, stream, "mlp", block=2) == []


def test_a_step_that_begins_a_hold_is_computed_within_an_earlier_one():
    # 864: step 2; 788: step 3; 676: step 4; steps 3 and 4 would be held if they did not begin holds
    assert reused(PABConfig(), "spatial", "mlp") == [5, 6]
    # 30 steps 33.3 apart: 833.3 is step 5, 766.7 step 7, 666.7 step 10
    assert reused(PABConfig(), "spatial", "mlp", THIRTY) == [6, 8, 9, 11, 12]


def test_times_that_one_step_passes_together_begin_one_hold():
    assert reused(PABConfig(mlp_times=(880, 860, 820)), "spatial", "mlp") == [3, 4]


def test_times_that_are_never_passed_hold_nothing():
    assert reused(PABConfig(mlp_times=(50,)), "spatial", "mlp") == []


def test_where_the_published_code_hits_its_timesteps_holds_are_the_same():
    # Open-Sora's times at 480 x 854 with 51 frames (15 latents); in bfloat16 steps 13, 17 and 21 are 864, 788, 676.
    ratio = math.sqrt(480 * 854 / 512**2 * 15)
    times = [1000 * ratio * u / (1 + (ratio - 1) * u) for u in (1 - step / 30 for step in range(30))]
    rounded = torch.tensor(times).bfloat16().tolist()
    assert [rounded.index(time) for time in (864, 788, 676)] == [13, 17, 21]
    assert reused(PABConfig(), "temporal", "mlp", times) == [14, 15, 18, 19, 22, 23]


def test_without_times_all_mlps_are_computed():
    config = PABConfig(mlp_times=())
    assert reused(config, "spatial", "mlp") == []
    assert not config.make_policy(10).keeps(Site("spatial", 0, "mlp"))


def test_asking_changes_nothing():
    policy = PABConfig(mlp_times=(850,), mlp_hold=2).make_policy(10)
    answers = []
    for step, time in enumerate(TEN):
        policy.begin_step(step, time)
        # At step 2, where the hold begins, nobody asks.
        answers.append([policy.computes(Site("temporal", 0, "mlp")) for _ in range(0 if step == 2 else 3)])
    assert [step for step, answer in enumerate(answers) if answer == [False] * 3] == [3, 4]
    assert all(len(set(answer)) <= 1 for answer in answers)


def test_only_what_is_reused_is_kept():
    policy = PABConfig(spatial=1, mlp_blocks=(2,)).make_policy(10)
    kept = {(stream, part) for stream in ("spatial", "temporal") for part in ("attn", "cross", "mlp")} - {
        ("spatial", "attn")
    }
    for stream in ("spatial", "temporal"):
        for part in ("attn", "cross", "mlp"):
            assert policy.keeps(Site(stream, 2, part)) == ((stream, part) in kept)
            assert policy.keeps(Site(stream, 1, part)) == ((stream, part) in kept and part != "mlp")


def test_a_reused_branch_adds_what_it_added_last():
    """One branch, which returns its input: spatial attention, computed at steps 0, 2 and 4."""
    controller = StepController(PABConfig(mlp_times=()))
    site = Site("spatial", 0, "attn")
    outputs = []
    with controller.run(5):
        for step in range(5):
            controller.begin_step(step, TEN[step])
            x = torch.full((1, 1, 1), float(step + 1))
            outputs.append(controller.stack(x, lambda h: h + controller.branch(site, lambda: h.clone()), 1).item())
    assert outputs == [1 + 1, 2 + 1, 3 + 3, 4 + 3, 5 + 5]
    assert [record.computed_share for record in controller.trace.records] == [1, 0, 1, 0, 1]


def test_the_options_survive_plain_values():
    config = PABConfig(3, 5, 7, [400, 900], [500, 700, 500], 3, [4, 0, 4], cache_dtype="fp16", cache_device="cpu")
    assert (config.window, config.mlp_times, config.mlp_blocks) == ((400, 900), (700, 500), (0, 4))
    assert config.to_dict()["mlp_times"] == [700, 500]
    assert PABConfig.from_dict(config.to_dict()) == config
    assert PABConfig.from_dict(PABConfig(mlp_times=()).to_dict()) == PABConfig(mlp_times=())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial": 0}, "spatial must be a whole number >= 1"),
        ({"temporal": 2.0}, "temporal must be a whole number >= 1"),
        ({"cross": "6"}, "cross must be a whole number >= 1"),
        ({"window": (930, 450)}, "window must be a low and a high time"),
        ({"window": (450,)}, "window must be a low and a high time"),
        ({"window": (450, math.inf)}, "window must be a low and a high time"),
        ({"mlp_times": 864}, "mlp_times must be a list of times"),
        ({"mlp_times": (864, None)}, "mlp_times must be a list of times"),
        ({"mlp_hold": 0}, "mlp_hold must be a whole number >= 1"),
        ({"mlp_blocks": ()}, "mlp_blocks must be a list of whole numbers"),
        ({"mlp_blocks": (-1,)}, "mlp_blocks must be a list of whole numbers"),
        ({"bridge": "fitted"}, "bridge 'fitted' cannot be used with PAB"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PABConfig(**options)


def test_blocks_that_the_model_lacks_are_refused():
    PABConfig().validate(30)
    PABConfig().validate(30, 5)
    with pytest.raises(ValueError, match=r"mlp_blocks \[0, 1, 2, 3, 4\] do not fit a model of 4 blocks"):
        PABConfig().validate(30, 4)
    PABConfig(mlp_times=()).validate(30, 4)  # no MLP is reused
