import doctest
import gc

import numpy as np
import pytest
import torch

import adacache
from adacache import AdaCacheConfig, Codebook, RunObserver, Site, StepController
from adacache.policies.base import Policy, PolicyConfig
from adacache.policies.static import StaticScheduleConfig
from adacache.reuse.base import Reuse

HELD = 4 * 4  # bytes of one (1, 4, 1) float32 tensor


def sample(model, controller, values, tokens):
    """Run the model on one value after the other; the values it gives back."""
    outputs = []
    with controller.run(num_steps=len(values)):
        for step, value in enumerate(values):
            controller.begin_step(step)
            outputs.append(model(tokens(float(value)), controller).mean().item())
    return outputs


def test_a_computed_step_is_the_model_and_a_reused_one_adds_the_stored_residual(model, tokens, every):
    controller = StepController(every(3))
    outputs = sample(model, controller, [10, 11, 12, 13, 14, 15, 16, 17], tokens)
    # Steps 2 and 3 add the residual 11 of step 1, step 5 the 14 of step 4.
    assert outputs == [20, 22, 12 + 11, 13 + 11, 28, 15 + 14, 32, 34]
    assert controller.trace.computed_steps == [0, 1, 4, 6, 7]
    assert controller.trace.reused_steps == [2, 3, 5]
    assert model.forward_passes == 5


def test_computed_outputs_are_bit_identical_to_the_model_without_a_controller(model, every):
    controller = StepController(every(1))
    with controller.run(num_steps=5):
        for step in range(5):
            hidden_states = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(step))
            controller.begin_step(step)
            assert torch.equal(model(hidden_states, controller), model(hidden_states, None))


def test_the_trace_holds_what_was_measured(model, tokens):
    # 10 -> 11 is a change of 0.1: rate 2. 11 -> 22 over 2 steps is 0.5 per step: rate 1.
    config = AdaCacheConfig(Codebook((0.05, 0.2), (4, 2, 1)), metric_blocks=(0,))
    controller = StepController(config)
    with controller.run(num_steps=6):
        for step, value in enumerate([10, 11, 0, 22, 22, 22]):
            controller.begin_step(step, timestep=1000.0 - step)
            model(tokens(float(value)), controller)
    records = controller.trace.records
    assert [(r.index, r.timestep, r.computed) for r in records[:3]] == [
        (0, 1000.0, True),
        (1, 999.0, True),
        (2, 998.0, False),
    ]
    assert [r.value for r in records] == [None, pytest.approx(0.1), None, pytest.approx(0.5), 0, 0]
    assert [r.distance for r in records] == [r.value for r in records]
    assert [r.rate for r in records] == [1, 2, None, 1, 4, 4]
    assert all(r.milliseconds >= 0 for r in records)
    assert all(r.motion_score is None for r in records)


def test_motion_reaches_the_trace(model, every):
    controller = StepController(every(1, moreg={"scale": 1, "power": 1, "gradient_weight": 0, "window": (1, 3)}))
    moving = torch.tensor([1.0, 1.0, 3.0, 3.0]).view(1, 4, 1)
    with controller.run(num_steps=3):
        for step in range(3):
            controller.begin_step(step)
            model(moving * (step + 1), controller)
    # |3 - 1| / (3 + 1) = 0.5 at any scale; the distance of step 1 is 1
    assert [r.motion_score for r in controller.trace.records] == [None, 0.5, 0.5]
    assert [r.value for r in controller.trace.records] == [None, 0.5, 0.25]


def test_an_exception_leaves_nothing_behind(model, tokens, every):
    controller = StepController(every(3))
    expected = sample(model, StepController(every(3)), range(10, 18), tokens)

    with pytest.raises(ZeroDivisionError), controller.run(num_steps=8):
        for step in range(3):
            controller.begin_step(step)
            model(tokens(1000.0), controller)
        assert controller.nbytes == 2 * HELD
        raise ZeroDivisionError
    assert controller.nbytes == 0
    assert controller.trace.computed_steps == [0, 1]

    assert sample(model, controller, range(10, 18), tokens) == expected
    assert sample(model, StepController(every(3)), range(10, 18), tokens) == expected


def test_an_interrupt_inside_the_blocks_leaves_nothing_behind(model, tokens, every):
    controller = StepController(every(3))

    def interrupted_blocks(hidden_states):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), controller.run(num_steps=8):
        controller.begin_step(0)
        model(tokens(1000.0), controller)
        controller.begin_step(1)
        controller.stack(tokens(1000.0), interrupted_blocks, 2)
    assert controller.nbytes == 0
    assert sample(model, controller, range(10, 18), tokens) == sample(
        model, StepController(every(3)), range(10, 18), tokens
    )


def test_a_second_run_equals_the_first_and_a_fresh_trace_replaces_the_old_one(model, tokens, every):
    controller = StepController(every(3))
    first = sample(model, controller, range(10, 18), tokens)
    old = controller.trace
    assert sample(model, controller, range(10, 18), tokens) == first
    assert controller.trace is not old
    assert controller.trace.computed_steps == old.computed_steps == [0, 1, 4, 6, 7]


def test_a_run_inside_a_run_ends_the_outer_one(model, tokens, every):
    controller = StepController(every(3))
    with pytest.raises(RuntimeError, match="outside of a run"), controller.run(num_steps=8):
        controller.begin_step(0)
        model(tokens(10.0), controller)
        sample(model, controller, range(10, 18), tokens)
        assert controller.trace.computed_steps == [0, 1, 4, 6, 7]
        controller.begin_step(1)


def test_two_controllers_on_one_model_do_not_touch_each_other(model, tokens, every):
    one, other = StepController(every(3)), StepController(every(2))
    outputs = {one: [], other: []}
    with one.run(num_steps=8), other.run(num_steps=8):
        for step in range(8):
            for controller, value in ((one, 10 + step), (other, 500 + step)):
                controller.begin_step(step)
                outputs[controller].append(model(tokens(float(value)), controller).mean().item())
    assert outputs[one] == sample(model, StepController(every(3)), range(10, 18), tokens)
    assert outputs[other] == sample(model, StepController(every(2)), range(500, 508), tokens)


def test_guidance_branches_have_their_own_residual_and_one_decision(model, tokens, every):
    controller = StepController(every(3))
    with controller.run(num_steps=8):
        for step in range(4):
            controller.begin_step(step)
            cond = model(tokens(10.0 + step), controller, context="cond")
            uncond = model(tokens(50.0 * (step + 1)), controller, context="uncond")
    assert cond.mean() == 13 + 11
    assert uncond.mean() == 200 + 100
    # Only "cond" is measured: its residual went from 10 to 11, that of "uncond" doubled.
    assert controller.trace.records[1].distance == pytest.approx(0.1)


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_a_run_of_no_number_of_videos_is_refused(every, count):
    with pytest.raises(ValueError, match="num_samples"), StepController(every(3)).run(8, num_samples=count):
        pass


def test_a_context_that_missed_the_computed_steps_is_refused(model, tokens, every):
    controller = StepController(every(3))
    with pytest.raises(RuntimeError, match="no residual is stored for 'uncond'"), controller.run(num_steps=8):
        for step in range(3):
            controller.begin_step(step)
            model(tokens(10.0), controller, context="cond")
        model(tokens(10.0), controller, context="uncond")


def test_shape_and_number_of_steps_may_change_between_runs(model, every):
    controller = StepController(every(3, moreg=True))
    for shape, num_steps in (((1, 4, 1), 8), ((2, 6, 3), 5), ((1, 2, 1), 1)):
        with controller.run(num_steps=num_steps):
            for step in range(num_steps):
                controller.begin_step(step)
                model(torch.ones(shape), controller)
        assert len(controller.trace.records) == num_steps


@pytest.mark.parametrize(("change_at", "words"), [(1, "compare a residual"), (2, "the residual stored")])
def test_the_shape_may_not_change_during_a_run(model, every, change_at, words):
    controller = StepController(every(3))
    with pytest.raises(ValueError, match=f"{words}.*start a new run"), controller.run(num_steps=8):
        for step in range(change_at + 1):
            controller.begin_step(step)
            model(torch.ones(1, 4 if step < change_at else 6, 1), controller)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([1], "got step 1, expected step 0; call it once for each of 0..2"),
        ([0, 0], "got step 0, expected step 1"),
        ([0, 2], "got step 2, expected step 1"),
        ([0, 1, 2, 3], "got step 3, expected the end of the run"),
        ([-1], "got step -1, expected step 0"),
    ],
)
def test_steps_out_of_order_are_refused(model, tokens, every, steps, words):
    controller = StepController(every(3))
    with pytest.raises(ValueError, match=words), controller.run(num_steps=3):
        for step in steps:
            controller.begin_step(step)
            model(tokens(1.0), controller)


def test_stopping_early_is_fine(model, tokens, every):
    controller = StepController(every(3))
    with controller.run(num_steps=8):
        for step in range(3):
            controller.begin_step(step)
            model(tokens(10.0), controller)
    assert (controller.trace.num_computed, controller.trace.num_reused, controller.trace.num_steps) == (2, 1, 8)


def test_calls_outside_of_a_run_say_so(model, tokens, every):
    controller = StepController(every(3))
    for call in (
        lambda: controller.begin_step(0),
        lambda: model(tokens(1.0), controller),
        lambda: controller.branch(Site("temporal", 0, "attn"), lambda: tokens(1.0)),
    ):
        with pytest.raises(RuntimeError, match="outside of a run; wrap the sampling loop"):
            call()
    with pytest.raises(RuntimeError, match="no trace before the first run"):
        _ = controller.trace


def test_calls_in_the_wrong_order_say_so(model, tokens, every):
    controller = StepController(every(3))
    with pytest.raises(RuntimeError, match="stack came before controller.begin_step"), controller.run(3):
        model(tokens(1.0), controller)
    with pytest.raises(RuntimeError, match="called twice in step 0 for context 'default'"), controller.run(3):
        controller.begin_step(0)
        model(tokens(1.0), controller)
        model(tokens(1.0), controller)


def test_a_model_that_was_not_given_the_controller_is_noticed(model, tokens, every):
    controller = StepController(every(3))
    with pytest.raises(RuntimeError, match="did not call controller.stack in step 0"), controller.run(3):
        controller.begin_step(0)
        model(tokens(1.0), None)
        controller.begin_step(1)
    with pytest.raises(RuntimeError, match="did not call controller.stack in step 0"), controller.run(1):
        controller.begin_step(0)
        model(tokens(1.0), None)


def test_a_metric_block_that_the_model_does_not_have_is_noticed_at_the_first_step(model, tokens):
    controller = StepController(AdaCacheConfig(metric_blocks=(13,)))
    with pytest.raises(RuntimeError, match="temporal block 13 attn"), controller.run(100):
        controller.begin_step(0)
        model(tokens(1.0), controller)


def test_blocks_that_change_their_input_in_place_are_noticed(tokens, every):
    controller = StepController(every(3))
    with pytest.raises(RuntimeError, match="instead of changing x in place"), controller.run(3):
        controller.begin_step(0)
        controller.stack(tokens(1.0), lambda x: x.mul_(2), tokens_per_frame=2)


@pytest.mark.parametrize("num_steps", [0, -1, 2.0, None])
def test_a_run_needs_a_whole_number_of_steps(every, num_steps):
    with pytest.raises(ValueError, match="num_steps"), StepController(every(3)).run(num_steps):
        pass


@pytest.mark.parametrize("config", [None, {"metric": "t-attn"}])
def test_a_controller_needs_a_policy_config(config):
    with pytest.raises(TypeError, match="to run without a cache, pass no controller"):
        StepController(config)


@pytest.mark.parametrize(("metric", "held"), [("t-attn", 2), ("s-attn", 2), ("ca-mlp", 3)])
def test_two_tensors_are_held_for_one_metric_block_and_none_after_the_run(tokens, metric, held):
    controller = StepController(AdaCacheConfig(Codebook((), (2,)), metric, (1,)))

    def run_blocks(x):
        for block in range(3):
            for stream in ("spatial", "temporal"):
                for part in ("attn", "cross", "mlp"):
                    x = x + controller.branch(Site(stream, block, part), lambda x=x: x * 0.1)
        return x

    assert controller.nbytes == 0
    with controller.run(num_steps=6):
        for step in range(6):
            controller.begin_step(step)
            controller.stack(tokens(1.0), run_blocks, tokens_per_frame=2)
            assert controller.nbytes == held * HELD
    assert controller.nbytes == 0


def alive(shape):
    """How many tensors of this shape exist."""
    gc.collect()
    return sum(type(thing) is torch.Tensor and thing.shape == shape for thing in gc.get_objects())


def test_a_failed_run_lets_go_of_its_tensors_while_the_exception_is_still_held(model, every):
    controller = StepController(every(2))

    def failing_blocks(hidden_states):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as held, controller.run(num_steps=4):
        controller.begin_step(0)
        model(torch.ones(1, 4, 41), controller)
        controller.begin_step(1)
        controller.stack(torch.ones(1, 4, 41), failing_blocks, tokens_per_frame=2)
    assert alive((1, 4, 41)) == 1  # the input of the failed call, which the traceback holds
    assert held.traceback


def test_the_old_residual_makes_room_before_the_blocks_run(tokens, every):
    controller = StepController(every(1))
    held = []

    def run_blocks(x):
        held.append(controller.nbytes)
        return x + controller.branch(Site("temporal", 0, "attn"), lambda: x.clone())

    with controller.run(num_steps=3):
        for step in range(3):
            controller.begin_step(step)
            controller.stack(tokens(1.0), run_blocks, tokens_per_frame=2)
    assert held == [0, HELD, HELD]


def test_a_branch_outside_of_the_stack_is_computed_but_not_measured(model, tokens, every):
    controller = StepController(every(3))
    with controller.run(num_steps=8):
        for step in range(2):
            controller.begin_step(step)
            model(tokens(10.0), controller)
            assert controller.branch(Site("temporal", 0, "attn"), lambda: tokens(77.0)).mean() == 77
    assert controller.trace.records[1].distance == 0


def test_bfloat16_residuals_are_measured_in_float32(model, tokens, every):
    controller = StepController(every(3))
    with controller.run(num_steps=3):
        for step, value in enumerate((256.0, 258.0, 258.0)):
            controller.begin_step(step)
            assert model(tokens(value, torch.bfloat16), controller).dtype == torch.bfloat16
    assert controller.trace.records[1].distance == pytest.approx(2 / 256, rel=1e-6)


def test_the_host_reads_once_per_computed_step_and_never_during_a_reused_one(model, tokens, every, monkeypatch):
    reads = []
    for name in ("tolist", "item", "__bool__", "__float__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)

        def counted(tensor, *args, name=name, original=original):
            reads.append(name)
            return original(tensor, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    controller = StepController(every(3, moreg=True))
    per_step = []
    with controller.run(num_steps=8):
        for step in range(8):
            controller.begin_step(step)
            before = len(reads)
            model(tokens(10.0 + step), controller)
            assert len(reads) == before  # the forward pass itself waits for nothing
            _ = controller.trace.num_computed
            per_step.append(reads[before:])
    # Step 0 has nothing to compare with; computed are 0, 1, 4, 6 and 7.
    assert per_step == [[], ["tolist"], [], [], ["tolist"], [], ["tolist"], ["tolist"]]


def test_progress_can_be_shown_while_the_run_goes_on(model, tokens, every):
    controller = StepController(every(3))
    seen = []
    with controller.run(num_steps=8):
        for step in range(4):
            controller.begin_step(step)
            model(tokens(10.0), controller)
            seen.append((controller.trace.num_computed, controller.trace.num_reused))
    assert seen == [(1, 0), (2, 0), (2, 1), (2, 2)]


def test_another_policy_needs_no_change_of_the_controller(model, tokens):
    class EverySecond(Policy):
        def should_compute(self, step_index):
            return step_index % 2 == 0

    class EverySecondConfig(PolicyConfig):
        def make_policy(self, num_steps):
            return EverySecond()

    controller = StepController(EverySecondConfig())
    assert sample(model, controller, [10, 11, 12, 13], tokens) == [20, 21, 24, 25]


class GuidedTwice(Reuse):
    """A reused step returns, for every row, twice the guided difference of the last computed output's two rows."""

    name = "output"
    takes_output = True

    def output(self, step, context, latents, output, observed):
        if step.computed:
            self.last = output
            return output
        conditional, unconditional = self.last
        return (2 * (conditional - unconditional)).expand_as(output)


def test_a_policy_of_ones_own_brings_a_reuse_of_its_own():
    class FirstOnly(Policy):
        reuse = f"{__name__}:GuidedTwice"

        def should_compute(self, step_index):
            return step_index == 0

    class FirstOnlyConfig(PolicyConfig):
        def make_policy(self, num_steps):
            return FirstOnly()

    controller = StepController(FirstOnlyConfig())
    outputs = []
    with controller.run(3, num_samples=2):
        for step in range(3):
            controller.begin_step(step)
            x = torch.tensor([1.0, 2.0, 5.0, 7.0])[:, None, None] + 10 * step  # conditional rows, then the others
            h = controller.stack(x, lambda h: 3 * h, 1)
            outputs.append(controller.output(x, h).flatten().tolist())
    # Of the first video 3 * (1 - 5), of the second 3 * (2 - 7), twice.
    assert outputs == [[3, 6, 15, 21], [-24, -30, -24, -30], [-24, -30, -24, -30]]
    assert controller.trace.metadata["reuses"] == "output"


def run_contexts(config, contexts, num_steps=8):
    """Sample with the guidance branches that `contexts` gives for each step; the controller."""
    controller = StepController(config)
    with controller.run(num_steps):
        for step in range(num_steps):
            controller.begin_step(step)
            for context in contexts(step):
                x = torch.full((1, 4, 1), 10.0 + step)

                def blocks(x):
                    return x + controller.branch(Site("temporal", 0, "attn"), lambda: 0.1 * x)

                controller.stack(x, blocks, 1, context)
    return controller


def test_a_measured_context_that_ends_is_refused_and_another_may_end(every):
    both = ("uncond", "cond")
    assert run_contexts(every(2), lambda step: both).trace.num_computed == 6
    assert run_contexts(every(2), lambda step: both if step < 4 else both[:1]).trace.num_computed == 6
    with pytest.raises(
        RuntimeError, match=r"step \d was computed without context 'uncond', which this policy measures"
    ):
        run_contexts(every(2), lambda step: both if step < 4 else both[1:])


@pytest.mark.parametrize("kind", ["fitted", "exponential"])
def test_weights_are_those_of_the_steps_that_have_them(kind):
    config = StaticScheduleConfig((0, 2, 4, 7), bridge={"kind": kind})
    trace = run_contexts(config, lambda step: ("uncond", "cond") if step < 4 else ("cond",)).trace
    with_weight = [record.index for record in trace.records if record.bridge_weight is not None]
    assert trace.computed_steps == [0, 2, 4, 7] and with_weight == [0, 2]


def test_a_branch_that_is_reported_twice_is_refused(every):
    controller = StepController(every(2))
    site = Site("temporal", 0, "attn")
    with pytest.raises(RuntimeError, match="reported .*0.* twice"), controller.run(3):
        controller.begin_step(0)
        controller.stack(
            torch.ones(1, 4, 1), lambda x: x + sum(controller.branch(site, lambda: 0.1 * x) for _ in "ab"), 1
        )


def test_a_run_whose_observer_fails_is_over(every):
    class Failing(RunObserver):
        def begin_run(self, controller, num_steps, num_samples):
            raise OSError("no space left")

    controller = StepController(every(2), observers=[Failing()])
    with pytest.raises(OSError, match="no space left"), controller.run(3):
        pass
    with pytest.raises(RuntimeError, match="outside of a run"):
        controller.begin_step(0)


def test_numbers_of_numpy_reach_the_trace_as_plain_ones(model, tokens, every, tmp_path):
    controller = StepController(every(2))
    with controller.run(np.int64(3)):
        for step in np.arange(3):
            controller.begin_step(step, timestep=np.float32(step))
            model(tokens(float(step + 1)), controller)
    controller.trace.save(tmp_path / "trace.json")


def test_an_observer_is_shown_what_goes_on(model, tokens):
    class Log(RunObserver):
        def __init__(self):
            self.seen = []

        def begin_run(self, controller, num_steps, num_samples):
            self.controller = controller
            self.seen.append(("run", num_steps, num_samples))

        def begin_step(self, step_index):
            self.seen.append(("step", step_index, self.controller.nbytes > 0))

        def end_stack(self, hidden_states, output, context, signals):
            self.seen.append((context, (output - hidden_states).mean().item()))

        def end_run(self):
            self.seen.append(("end", self.controller.nbytes > 0))

    log = Log()
    controller = StepController(StaticScheduleConfig((0,)), observers=[RunObserver(), log])
    assert sample(model, controller, [10, 11], tokens) == [20, 21]
    assert log.seen == [
        ("run", 2, 1),
        ("step", 0, False),
        ("default", 10),
        ("step", 1, True),
        ("default", 10),
        ("end", True),
    ]


def test_the_example_in_the_package_docstring_works():
    result = doctest.testmod(adacache)
    assert result.attempted >= 8
    assert result.failed == 0
