"""Policies that reuse single branches: the stack runs, its parts may be reused."""

import pytest
import torch
from torch import Tensor

from adacache import Site, StepController
from adacache.policies.base import BranchPolicy, PolicyConfig


class CrossEverySecond(BranchPolicy):
    """Cross-attention is computed at even steps below time 900, everything else always."""

    def begin_step(self, step_index: int, timestep: float) -> None:
        self.computes_cross = step_index % 2 == 0 or timestep >= 900

    def computes(self, site: Site) -> bool:
        return site.part != "cross" or self.computes_cross

    def keeps(self, site: Site) -> bool:
        return site.part == "cross"


class Config(PolicyConfig):
    def make_policy(self, num_steps: int) -> CrossEverySecond:
        return CrossEverySecond()


def model(x: Tensor, controller: StepController, context: str = "default") -> Tensor:
    """One block: attention adds x, cross-attention adds 10 x of what it gets."""

    def run_blocks(h: Tensor) -> Tensor:
        h = h + controller.branch(Site("spatial", 0, "attn"), lambda: h.clone())
        return h + controller.branch(Site("spatial", 0, "cross"), lambda: 10 * h)

    return controller.stack(x, run_blocks, 1, context)


def run(times: list[float], inputs: list[float], rows: int = 1, contexts: tuple[str, ...] = ("default",), **options):
    controller = StepController(Config(**options))
    outputs = []
    with controller.run(len(times), rows):
        for step, (time, x) in enumerate(zip(times, inputs, strict=True)):
            controller.begin_step(step, time)
            for factor, context in enumerate(contexts, start=1):
                outputs.append(model(torch.full((rows, 1, 1), factor * x), controller, context).flatten().tolist())
    return outputs, controller


def test_a_reused_branch_adds_what_it_added_last():
    outputs, controller = run([800, 700, 600], [1, 2, 3])
    # step 0: 1 + 1 = 2, cross 20; step 1: 2 + 2 = 4, cross 20 again; step 2: 6 + 60
    assert outputs == [[22], [24], [66]]
    assert [record.computed_share for record in controller.trace.records] == [1, 0.5, 1]
    assert controller.trace.num_reused == 0  # the stack ran at every step


def test_time_decides_too():
    outputs, _ = run([950, 920, 910], [1, 2, 3])
    assert outputs == [[22], [44], [66]]


def test_guidance_branches_keep_their_own():
    outputs, controller = run([800, 700], [1, 2], contexts=("cond", "uncond"))
    assert outputs == [[22], [44], [24], [48]]
    assert controller.trace.records[1].computed_share == 0.5


def test_all_videos_of_a_batch_share_one_schedule():
    outputs, controller = run([800, 700], [1, 2], rows=3)
    assert outputs == [[22] * 3, [24] * 3]
    assert len(controller.traces) == 3


def test_only_what_is_reused_is_kept_and_nothing_after_the_run():
    controller = StepController(Config(cache_dtype="bf16"))
    with controller.run(2):
        controller.begin_step(0, 800)
        model(torch.ones(1, 4, 1), controller)
        assert controller.nbytes == 4 * 2  # one tensor of four numbers, narrowed
    assert controller.nbytes == 0


def test_without_a_time_it_is_refused():
    controller = StepController(Config())
    with pytest.raises(ValueError, match="needs the flow's time; pass it"), controller.run(2):
        controller.begin_step(0)


def test_a_refused_step_can_begin_again():
    controller = StepController(Config())
    with controller.run(1):
        with pytest.raises(ValueError, match="pass it"):
            controller.begin_step(0)
        controller.begin_step(0, 800)
        assert model(torch.ones(1, 1, 1), controller).item() == 22


def test_no_speedup_is_told_where_steps_ran_in_part():
    _, controller = run([800, 700, 600], [1, 2, 3])
    assert controller.trace.estimated_speedup is None
    assert controller.trace.metadata["reuses"] == "branches"
