"""Policies that decide within a step: by a signal before the blocks, for the stack, its tail, or the whole model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adacache import StepController
from adacache.policies.base import Decision, OutputChange, OutputPolicy, PolicyConfig, SignalChange, SignalPolicy


class ByThreshold(SignalPolicy):
    """Computes where the signal changed by more than half; remembers what it was asked."""

    signal = "modulated_input"
    reference = "previous"

    def __init__(self) -> None:
        self.changes: list[SignalChange | None] = []

    def decide(self, step_index: int, change: SignalChange | None) -> Decision:
        self.changes.append(change)
        relative = None if change is None else change.relative
        return Decision(relative is None or relative > 0.5, distance=relative, value=relative)


class SinceComputed(ByThreshold):
    reference = "computed"


class ByHead(SinceComputed):
    signal = "first_block"
    reuse = "adacache.reuse.stack:TailReuse"


class WholeModel(ByThreshold, OutputPolicy):
    signal = "latents"

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[OutputChange] = []

    def observe_output(self, step_index: int, change: OutputChange) -> None:
        self.outputs.append(change)


class Config(PolicyConfig):
    """Makes policies of one class and keeps them."""

    def __init__(self, policy: type[SignalPolicy], **options) -> None:
        super().__init__(**options)
        object.__setattr__(self, "policy", policy)
        object.__setattr__(self, "made", [])

    def make_policy(self, num_steps: int) -> SignalPolicy:
        self.made.append(self.policy())
        return self.made[-1]


class TwoBlocks:
    """The first block adds 1, the second doubles; the model's output is the stack's, negated."""

    def __init__(self) -> None:
        self.rows: list[int] = []  # that the second block was given

    def __call__(self, x: Tensor, controller: StepController, context: str = "default", show: bool = True) -> Tensor:
        begun: list[Tensor] = []

        def first_block() -> Tensor:
            begun.append(x + 1)
            return begun[0] - x

        def run_blocks(hidden_states: Tensor, rows: Tensor | None = None) -> Tensor:
            self.rows.append(len(hidden_states))
            h = (begun[0] if rows is None else begun[0][rows]) if begun else hidden_states + 1
            return 2 * h

        signals: dict[str, Callable[[], Tensor]] = {
            "latents": lambda: x,
            "modulated_input": lambda: x,
            "first_block": first_block,
        }
        out = -controller.stack(x, run_blocks, 1, context, signals)
        return controller.output(x, out, context) if show else out


def run(config: Config, inputs: list[list[float]], num_samples: int = 1) -> tuple[list[list[float]], TwoBlocks, list]:
    """Outputs of a run with one number per row, the model, and the traces."""
    model, controller, outputs = TwoBlocks(), StepController(config), []
    with controller.run(len(inputs), num_samples):
        for step, rows in enumerate(inputs):
            controller.begin_step(step, 1000.0 - step)
            outputs.append(model(torch.tensor(rows).reshape(-1, 1, 1), controller).flatten().tolist())
    return outputs, model, controller.traces


def test_a_signal_is_compared_with_the_step_before():
    config = Config(ByThreshold)
    # 1 -> 1.4 changes by .4 (reused), 1.4 -> 2 by .43 (reused), 2 -> 4 by 1 (computed)
    outputs, model, traces = run(config, [[1.0], [1.4], [2.0], [4.0]])
    assert traces[0].computed_steps == [0, 3]
    assert [change and pytest.approx(change.relative) for change in config.made[0].changes] == [None, 0.4, 0.6 / 1.4, 1]
    # computed: -(2 (x + 1)); the residual of step 0 is 4 - 1 = 3
    assert [out[0] for out in outputs] == pytest.approx([-4, -(1.4 + 3), -(2 + 3), -10])
    assert model.rows == [1, 1]


def test_or_with_the_last_computed_step():
    config = Config(SinceComputed)
    # since step 0: .4, then 1 (computed), then 1 - 4/2
    _, _, traces = run(config, [[1.0], [1.4], [2.0], [4.0]])
    assert traces[0].computed_steps == [0, 2, 3]
    assert [record.distance for record in traces[0].records] == [None, pytest.approx(0.4), 1, 1]


def test_numbers_stand_in_the_trace_at_reused_steps_too():
    _, _, traces = run(Config(ByThreshold), [[1.0], [1.25]])
    reused = traces[0].records[1]
    assert (reused.computed, reused.distance, reused.value, reused.timestep) == (False, 0.25, 0.25, 999.0)


def test_a_head_is_new_at_every_step_and_only_the_rest_reused():
    # The head is always +1, so every step after the first is reused: the tail of step 0 is 2 (1 + 1) - (1 + 1) = 2.
    outputs, model, traces = run(Config(ByHead), [[1.0], [3.0]])
    assert traces[0].computed_steps == [0]
    assert outputs == [[-4.0], [-(3.0 + 1 + 2)]]
    assert model.rows == [1]


def test_the_whole_model_is_reused_by_its_input_and_the_last_difference():
    config = Config(WholeModel)
    outputs, _, traces = run(config, [[1.0], [1.5], [3.0], [6.0], [6.5]])
    assert traces[0].computed_steps == [0, 2, 3]
    # step 1: input 1.5 + (output -4 - input 1); step 4: 6.5 + (-14 - 6)
    assert outputs == [[-4.0], [-3.5], [-8.0], [-14.0], [-13.5]]
    # told before the next decision: |out|, and between computed steps |3 - 1| and |-8 - -4|, then |6 - 3| and |-14 + 8|
    assert config.made[0].outputs == [(None, None, 4.0), (2.0, 4.0, 8.0), (3.0, 6.0, 14.0)]


def test_channels_beyond_the_input_s_are_held():
    controller = StepController(Config(WholeModel))
    with controller.run(2):
        for step, x in enumerate((1.0, 1.25)):
            latents = torch.full((1, 1, 2), x)
            controller.begin_step(step)
            controller.stack(latents, lambda h: h + 1, 2, signals={"latents": lambda x=latents: x})
            made = torch.cat([-latents, torch.full((1, 1, 2), 7.0 + step)], dim=1)
            out = controller.output(latents, made)
    assert out[0].tolist() == [[-0.75, -0.75], [7.0, 7.0]]  # 1.25 + (-1 - 1); the variance of step 0


@pytest.mark.parametrize("policy", [ByThreshold, SinceComputed, ByHead, WholeModel])
def test_videos_of_a_batch_come_out_as_alone(policy):
    videos = [[1.0, 1.2, 1.3, 9.0], [1.0, 3.0, 3.1, 3.2], [2.0, 2.1, 8.0, 8.1]]
    alone = [run(Config(policy), [[x] for x in video])[0] for video in videos]
    # Guidance: rows of all videos come twice.
    together, _, traces = run(Config(policy), [list(step) * 2 for step in zip(*videos, strict=True)], num_samples=3)
    for row in range(6):
        assert [step[row] for step in together] == pytest.approx([step[0] for step in alone[row % 3]])
    expected = [run(Config(policy), [[x] for x in video])[2][0].computed_steps for video in videos]
    assert [trace.computed_steps for trace in traces] == expected


def test_only_rows_that_are_due_are_computed():
    _, model, _ = run(Config(ByHead), [[1.0, 1.0], [1.0, 1.0]], num_samples=2)
    assert model.rows == [2]
    _, model, _ = run(Config(ByThreshold), [[1.0, 1.0], [1.0, 5.0]], num_samples=2)
    assert model.rows == [2, 1]


def test_one_schedule_for_a_batch_measures_all_rows_together():
    config = Config(ByThreshold, schedule="batch")
    # mean change (0 + 4) / 2 over mean 1 is 2
    _, model, traces = run(config, [[1.0, 1.0], [1.0, 5.0]], num_samples=2)
    assert [trace.computed_steps for trace in traces] == [[0, 1], [0, 1]]
    assert model.rows == [2, 2]


@pytest.mark.parametrize("policy", [ByThreshold, ByHead, WholeModel])
def test_guidance_branches_share_the_decision_and_keep_their_own_residuals(policy):
    model, controller = TwoBlocks(), StepController(Config(policy))
    outputs = {"cond": [], "uncond": []}
    with controller.run(2):
        for step in range(2):
            controller.begin_step(step)
            for context, x in (("cond", 1.0), ("uncond", 10.0 + 100 * step)):
                outputs[context].append(model(torch.full((1, 1, 1), x), controller, context).item())
    assert controller.trace.computed_steps == [0]  # by the conditional branch, which did not change
    assert outputs["cond"] == [-4.0, -4.0]
    held = 110 + (-22 - 10) if policy is WholeModel else -(110 + 12)
    assert outputs["uncond"] == [-22.0, held]


def test_contexts_must_keep_their_order():
    model, controller = TwoBlocks(), StepController(Config(ByThreshold))
    with pytest.raises(RuntimeError, match="'uncond' came before 'cond' in step 1"), controller.run(2):
        controller.begin_step(0)
        model(torch.ones(1, 1, 1), controller, "cond")
        controller.begin_step(1)
        model(torch.ones(1, 1, 1), controller, "uncond")


def test_a_model_without_the_signal_is_refused():
    controller = StepController(Config(ByThreshold))
    with pytest.raises(RuntimeError, match="'modulated_input', but the model offers 'latents'"), controller.run(1):
        controller.begin_step(0)
        controller.stack(torch.ones(1, 1, 1), lambda h: h + 1, 1, signals={"latents": lambda: torch.ones(1)})


def test_a_signal_with_other_rows_is_refused():
    controller = StepController(Config(ByThreshold))
    with pytest.raises(ValueError, match="has 3 rows, but the hidden states have 2"), controller.run(1):
        controller.begin_step(0)
        signals = {"modulated_input": lambda: torch.ones(3, 1, 1)}
        controller.stack(torch.ones(2, 1, 1), lambda h: h + 1, 1, signals=signals)


def test_a_model_that_hides_its_output_is_refused():
    model, controller = TwoBlocks(), StepController(Config(WholeModel))
    with pytest.raises(RuntimeError, match="did not call controller.output in step 0"), controller.run(2):
        controller.begin_step(0)
        model(torch.ones(1, 1, 1), controller, show=False)
        controller.begin_step(1)


def test_output_is_called_once_and_after_the_stack():
    controller = StepController(Config(WholeModel))
    with controller.run(1):
        controller.begin_step(0)
        with pytest.raises(RuntimeError, match="before controller.stack"):
            controller.output(torch.ones(1, 1, 1), torch.ones(1, 1, 1))
        TwoBlocks()(torch.ones(1, 1, 1), controller)
        with pytest.raises(RuntimeError, match="twice in step 0"):
            controller.output(torch.ones(1, 1, 1), torch.ones(1, 1, 1))


def test_memory_is_a_signal_and_a_residual_or_three_latents():
    for policy, tensors in ((ByThreshold, 2), (SinceComputed, 2), (ByHead, 2), (WholeModel, 3)):
        controller = StepController(Config(policy))
        with controller.run(1):
            controller.begin_step(0)
            TwoBlocks()(torch.ones(2, 1, 1), controller)
            assert controller.nbytes == tensors * 2 * 4


def test_the_observed_context_is_the_one_that_is_told_whatever_comes_out_first():
    config = Config(WholeModel)
    controller = StepController(config)
    with controller.run(2):
        for step in range(2):
            controller.begin_step(step)
            inputs = {"cond": torch.full((1, 1, 1), 2.0), "uncond": torch.full((1, 1, 1), 17.0)}
            for context, x in inputs.items():
                controller.stack(x, lambda h: 2 * h, 1, context, {"latents": lambda x=x: x})
            for context in ("uncond", "cond"):
                controller.output(inputs[context], 3 * inputs[context], context)
    assert config.made[0].outputs == [(None, None, 6.0)]


def test_what_is_reused_stands_in_the_trace():
    for policy, reuses in ((ByThreshold, None), (ByHead, "tail"), (WholeModel, "output")):
        _, _, traces = run(Config(policy), [[1.0]])
        assert traces[0].metadata.get("reuses") == reuses


def test_a_signal_of_another_shape_is_refused():
    controller = StepController(Config(ByThreshold))
    with pytest.raises(ValueError, match="start a new run when the shape of the latents changes"), controller.run(2):
        for step, tokens in enumerate((4, 6)):
            x = torch.ones(1, tokens, 2)
            controller.begin_step(step)
            controller.stack(x, lambda h: h + 1, 1, signals={"modulated_input": lambda x=x: x})


@pytest.mark.parametrize(
    ("latents", "output"), [((1, 2, 3), (2, 2, 3)), ((3, 2, 3), (3, 2, 3)), ((2, 2, 3), (2, 1, 3))]
)
def test_an_output_that_does_not_fit_is_refused(latents, output):
    controller = StepController(Config(WholeModel))
    with pytest.raises(ValueError, match="both need the same rows"), controller.run(1, 2):
        controller.begin_step(0)
        controller.stack(torch.ones(2, 1, 1), lambda h: h + 1, 1, signals={"latents": lambda: torch.ones(2, 1, 1)})
        controller.output(torch.ones(latents), torch.ones(output))


def test_a_refused_signal_can_be_given_again():
    controller = StepController(Config(ByThreshold))
    with controller.run(1):
        controller.begin_step(0)
        with pytest.raises(RuntimeError, match="the model offers none"):
            controller.stack(torch.ones(1, 1, 1), lambda h: h + 1, 1)
        assert TwoBlocks()(torch.ones(1, 1, 1), controller).item() == -4


def test_a_loop_may_change_latents_and_outputs_in_place():
    controller, z = StepController(Config(WholeModel)), torch.full((1, 1, 1), 1.0)
    with controller.run(2):
        for step in range(2):
            controller.begin_step(step)
            out = TwoBlocks()(z, controller)
            assert out.item() == (-4.0 if step == 0 else 1.25 - 5.0)
            z.fill_(1.25)
            out.zero_()
