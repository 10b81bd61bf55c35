"""What STDiT3 offers to policies that look at a step before they decide."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from opensora.models.stdit import STDiT3, STDiT3Config
from opensora.models.stdit.stdit3 import modulate

SIZES = {"depth": 2, "hidden_size": 24, "num_heads": 2, "caption_channels": 8, "model_max_length": 4}


@pytest.fixture
def model() -> STDiT3:
    torch.manual_seed(0)
    model = STDiT3(STDiT3Config.from_dict(SIZES)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(4, 4, 3, 4, 4, generator=generator),
        "timestep": torch.full((4,), 600.0),
        "y": torch.randn(4, 1, 4, 8, generator=generator),
        "fps": torch.full((1,), 24.0),
    }


class Peeking:
    """A controller that looks at signals first and computes some rows; it keeps what it saw."""

    def __init__(self, names: tuple[str, ...], rows: list[int] | None = None) -> None:
        self.names, self.rows = names, rows
        self.seen: dict[str, Tensor] = {}
        self.hidden_states: Tensor | None = None
        self.branches: list[str] = []

    def stack(self, hidden_states, run_blocks, tokens_per_frame, context="default", signals=None) -> Tensor:
        self.hidden_states = hidden_states
        self.seen = {name: signals[name]() for name in self.names}
        if self.rows is None:
            return run_blocks(hidden_states)
        rows = torch.tensor(self.rows)
        hidden_states = hidden_states.clone()
        hidden_states[rows] = run_blocks(hidden_states[rows], rows)
        return hidden_states

    def watches(self, stream, block) -> bool:
        return True

    def branch(self, site, compute: Callable[[], Tensor]) -> Tensor:
        self.branches.append(str(site))
        return compute()

    def output(self, latents: Tensor, output: Tensor, context: str = "default") -> Tensor:
        self.latents = latents
        return output


@torch.no_grad()
def test_looking_changes_nothing(model, inputs):
    plain = model(**inputs)
    for names in [(), ("latents",), ("modulated_input",), ("first_block",)]:
        assert torch.equal(model(**inputs, controller=Peeking(names)), plain)


@torch.no_grad()
def test_the_first_block_is_computed_once(model, inputs):
    unseen, seen = Peeking(()), Peeking(("first_block",))
    model(**inputs, controller=unseen)
    model(**inputs, controller=seen)
    assert seen.branches == unseen.branches
    assert seen.branches.count("spatial block 0 attn") == 1


@torch.no_grad()
def test_signals_are_what_their_names_say(model, inputs):
    caught = []
    block = model.spatial_blocks[0]
    handle = block.register_forward_hook(lambda _module, given, output: caught.append((*given, output)))
    controller = Peeking(("latents", "modulated_input", "first_block"))
    model(**inputs, controller=controller)
    handle.remove()
    hidden_states, _, _, modulation, _, _, output = caught[0]
    assert torch.equal(controller.seen["latents"], inputs["x"].transpose(1, 2))  # frames first
    assert torch.equal(controller.latents, inputs["x"])
    assert torch.equal(controller.seen["first_block"], (output - hidden_states).flatten(1, 2))
    assert controller.seen["first_block"].shape == controller.hidden_states.shape
    shift, scale = (block.scale_shift_table + modulation).unsqueeze(3).unbind(2)[:2]
    assert torch.equal(controller.seen["modulated_input"], modulate(hidden_states, shift, scale))


@torch.no_grad()
def test_rows_that_are_due_go_on_from_their_own_first_block(model, inputs):
    everything = model(**inputs, controller=Peeking(("first_block",)))
    some = model(**inputs, controller=Peeking(("first_block",), rows=[1, 3]))
    torch.testing.assert_close(some[[1, 3]], everything[[1, 3]])
    assert not torch.allclose(some[0], everything[0])


@torch.no_grad()
def test_signals_follow_a_frame_mask(model, inputs):
    held = Peeking(("modulated_input",))
    model(**inputs, x_mask=torch.tensor([[False, True, True]]).expand(4, 3), controller=held)
    free = Peeking(("modulated_input",))
    model(**inputs, controller=free)
    signals = held.seen["modulated_input"], free.seen["modulated_input"]
    assert not torch.allclose(signals[0][:, 0], signals[1][:, 0])  # timestep 0
    assert torch.equal(signals[0][:, 1:], signals[1][:, 1:])
