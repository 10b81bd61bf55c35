"""Nothing outlives its run, whatever ends it; and what is kept of a batch does not keep all of the batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from adacache import AdaCacheConfig, Codebook, Site, StepController
from adacache.policies.easycache import EasyCacheConfig
from adacache.policies.fbcache import FBCacheConfig
from adacache.policies.pab import PABConfig
from adacache.policies.teacache import TeaCacheConfig
from adacache.storage import TensorStore

STEPS = 4
POLICIES = {
    "metric": AdaCacheConfig(Codebook((), (2,)), "s-attn", (0,), bridge="fitted"),
    "signal": TeaCacheConfig((1.0, 0.0)),
    "head": FBCacheConfig(),
    "output": EasyCacheConfig(warmup=2),
    "branch": PABConfig(),
}


class Model:
    """One block with one branch; remembers the memory of all it handed to the controller, without keeping it."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.handed: list[StorageWeakRef] = []
        self.fails_at = fails_at

    def __call__(self, controller: StepController, rows: int, step: int) -> Tensor:
        def signal(scale: float) -> Callable[[], Tensor]:
            return lambda: self._note(scale * x)

        def run_blocks(h: Tensor, rows: Tensor | None = None) -> Tensor:
            h = h + controller.branch(Site("spatial", 0, "attn"), lambda: self._note(0.5 * h))
            if step == self.fails_at:
                raise KeyboardInterrupt
            return h

        x = self._note(torch.full((rows, 4, 3), 1.0 + step))
        latents = self._note(x.movedim(-1, 1)[:, :1].clone())
        signals = {"latents": lambda: latents, "modulated_input": signal(2.0), "first_block": signal(0.1)}
        out = controller.stack(x, run_blocks, 2, signals=signals)
        return controller.output(latents, self._note(out.movedim(-1, 1).clone()))

    def _note(self, tensor: Tensor) -> Tensor:
        self.handed.append(StorageWeakRef(tensor.untyped_storage()))
        return tensor


def alive(refs: list[StorageWeakRef]) -> int:
    return sum(not ref.expired() for ref in refs)


def run_steps(model: Model, controller: StepController, rows: int = 2) -> None:
    for step in range(STEPS):
        controller.begin_step(step, 900.0 - 100 * step)
        model(controller, rows, step)


@pytest.fixture
def kept(monkeypatch) -> list[StorageWeakRef]:
    """The memory of all that runs keep, whether a model handed it in or a track made it."""
    refs: list[StorageWeakRef] = []
    keep = TensorStore.keep

    def noting(*args, **options):
        result = keep(*args, **options)
        refs.append(StorageWeakRef(result.fetch().untyped_storage()))
        return result

    monkeypatch.setattr(TensorStore, "keep", noting)
    return refs


@pytest.mark.parametrize("num_samples", [1, 2])
@pytest.mark.parametrize("name", POLICIES)
def test_a_run_that_ends_frees_everything(name, num_samples, kept):
    controller, model = StepController(POLICIES[name]), Model()
    with controller.run(STEPS, num_samples):
        run_steps(model, controller)
        assert alive(kept) and controller.nbytes
    assert (alive(kept), alive(model.handed), controller.nbytes) == (0, 0, 0)
    assert len(controller.trace.records) == STEPS


@pytest.mark.parametrize("name", POLICIES)
def test_so_does_one_that_is_interrupted_within_its_blocks(name, kept):
    controller, model = StepController(POLICIES[name]), Model(fails_at=0)
    with suppress(KeyboardInterrupt), controller.run(STEPS, 2):
        run_steps(model, controller)
    assert model.handed
    assert (alive(kept), alive(model.handed), controller.nbytes) == (0, 0, 0)


@pytest.mark.parametrize("name", POLICIES)
def test_so_does_one_that_fails_between_steps(name, kept):
    controller, model = StepController(POLICIES[name]), Model()
    with suppress(OSError), controller.run(STEPS, 2):
        run_steps(model, controller)
        assert alive(kept)
        raise OSError
    assert (alive(kept), alive(model.handed), controller.nbytes) == (0, 0, 0)


@pytest.mark.parametrize("name", POLICIES)
def test_so_does_one_that_is_left_open_within_its_blocks_when_another_begins(name, kept):
    controller, model = StepController(POLICIES[name]), Model(fails_at=STEPS - 1)
    first = controller.run(STEPS, 2)
    first.__enter__()
    with suppress(KeyboardInterrupt):
        run_steps(model, controller)
    assert alive(kept)
    with controller.run(STEPS, 2):
        # Whoever opened the first run still has it, but not its tensors.
        assert (alive(kept), alive(model.handed), controller.nbytes) == (0, 0, 0)
        controller.begin_step(0, 900.0)
        Model()(controller, 2, 0)


@pytest.mark.parametrize("name", ["signal", "head", "output"])
def test_a_video_s_part_of_a_batch_is_kept_without_the_rest_of_it(name, kept):
    controller, model = StepController(POLICIES[name]), Model()
    with controller.run(STEPS, num_samples=3):
        controller.begin_step(0, 900.0)
        model(controller, rows=6, step=0)
        assert alive(kept) and alive(model.handed) == 0


def test_a_branch_that_is_a_slice_of_something_larger_is_copied():
    larger: list[StorageWeakRef] = []

    def attention() -> Tensor:
        everything = torch.ones(2, 4, 9)
        larger.append(StorageWeakRef(everything.untyped_storage()))
        return everything[..., 3:6]

    controller, site = StepController(PABConfig()), Site("spatial", 0, "attn")
    with controller.run(STEPS):
        controller.begin_step(0, 900.0)
        controller.stack(torch.ones(2, 4, 3), lambda h: h + controller.branch(site, attention), 2)
        assert alive(larger) == 0
        assert controller.nbytes == 2 * 4 * 3 * 4
