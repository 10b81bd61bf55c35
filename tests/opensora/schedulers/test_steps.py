"""What a sampling loop reads from its device, and when."""

from __future__ import annotations

import pytest
import torch

from adacache.storage import HostCopy
from opensora.schedulers import steps
from opensora.schedulers.rf import RFLOW, NonFiniteLatentsError
from opensora.schedulers.steps import DenoiseOptions, steps_of_run
from support.reference_model import StoredText, load_reference, stored_size

QUIET = DenoiseOptions(progress=False)


class OnGpu(torch.Tensor):
    """A tensor of the CPU that says it is on a GPU."""

    is_cuda = True


@pytest.fixture
def read(monkeypatch) -> list[bool]:
    """Flags in the order in which they are read; each is of whether a step's latents were numbers."""
    values: list[bool] = []

    class Noted:
        def __init__(self, tensor: torch.Tensor) -> None:
            self._values = tensor.tolist()

        def read(self) -> list[bool]:
            values.extend(self._values)
            return self._values

    monkeypatch.setattr(steps, "HostCopy", Noted)
    return values


def test_on_a_gpu_latents_are_looked_at_one_step_late(read):
    latents = torch.zeros(2).as_subclass(OnGpu)
    with steps_of_run(3, 1, QUIET) as run:
        run.end_step(latents, 900.0)
        assert read == []
        run.end_step(latents, 500.0)
        assert read == [True]
        run.end_step(latents, 100.0)
    assert read == [True] * 3


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_the_step_that_broke_is_named_all_the_same(read, broken):
    good = torch.zeros(2).as_subclass(OnGpu)
    with (
        pytest.raises(NonFiniteLatentsError, match=rf"in step {broken + 1} of 3 \(timestep {900 - 400 * broken}.0\)"),
        steps_of_run(3, 1, QUIET) as run,
    ):
        for step in range(3):
            run.end_step(good * torch.nan if step == broken else good, 900.0 - 400 * step)


def test_on_the_cpu_a_step_is_looked_at_when_it_ends():
    with pytest.raises(NonFiniteLatentsError), steps_of_run(3, 1, QUIET) as run:
        run.end_step(torch.tensor([torch.inf]), 900.0)
        pytest.fail("nobody looked")


def test_the_lengths_of_texts_are_on_the_host(golden):
    """Read from a device, they would make every computed step wait for it."""
    from safetensors.torch import load_file

    inputs = load_file(golden / "rflow/inputs.safetensors")
    model = load_reference(golden, "main")
    name = next(key.removesuffix(".y_mask") for key in inputs if key.endswith(".y_mask"))
    masks = []
    model.register_forward_pre_hook(lambda _, __, kwargs: masks.append(kwargs["mask"]), with_kwargs=True)

    class OnDevice(StoredText):
        """Its mask has been elsewhere before."""

        def encode(self, prompts):
            encoded = super().encode(prompts)
            return {**encoded, "mask": CountingMask.of(encoded["mask"])}

    z = inputs[f"{name}.z"]
    RFLOW(3).sample(model, OnDevice(inputs, name), z, [""] * len(z), "cpu", stored_size(inputs, name), progress=False)
    assert CountingMask.moved == 1
    assert len(masks) == 3
    assert len({id(mask) for mask in masks}) == 1


class CountingMask(torch.Tensor):
    """Counts how often it is fetched to the CPU."""

    moved = 0

    @classmethod
    def of(cls, mask: torch.Tensor) -> torch.Tensor:
        """The mask, not yet fetched."""
        cls.moved = 0
        return mask.as_subclass(cls)

    def cpu(self) -> torch.Tensor:
        """Fetch it."""
        type(self).moved += 1
        return self.as_subclass(torch.Tensor)


def test_a_copy_to_the_host_reads_what_was_there():
    assert HostCopy(torch.tensor([1.5, 2.0])).read() == [1.5, 2.0]
