"""A model small enough to follow with pen and paper."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adacache import AdaCacheConfig, Codebook, Site, StepController


class DoublingModel:
    """One block, whose only branch returns its input: computed, 10 becomes 20, with a residual of 10."""

    def __init__(self) -> None:
        self.forward_passes = 0

    def __call__(self, hidden_states: Tensor, controller: StepController | None, context: str = "default") -> Tensor:
        def run_blocks(x: Tensor) -> Tensor:
            self.forward_passes += 1
            if controller is None:
                return x + x.clone()
            return x + controller.branch(Site("temporal", 0, "attn"), lambda: x.clone())

        if controller is None:
            return run_blocks(hidden_states)
        return controller.stack(hidden_states, run_blocks, tokens_per_frame=2, context=context)


@pytest.fixture
def model() -> DoublingModel:
    return DoublingModel()


@pytest.fixture
def tokens() -> Callable[..., Tensor]:
    """Hidden states (1, 4, 1), two frames of two tokens, all of one value."""
    return lambda value, dtype=torch.float32: torch.full((1, 4, 1), value, dtype=dtype)


@pytest.fixture
def every() -> Callable[..., AdaCacheConfig]:
    """A config with a fixed interval: of 8 steps, `every(3)` computes 0, 1, 4 and, being the last two, 6 and 7."""
    return lambda rate, **options: AdaCacheConfig(Codebook((), (rate,)), metric_blocks=(0,), **options)
