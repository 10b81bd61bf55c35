"""Keeping tensors: what comes back, what is held where, and in which order copies and streams wait."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from adacache import AdaCacheConfig, Codebook, Site, StepController
from adacache import storage as storage_module
from adacache.storage import CudaTransfers, TensorStore

SITE = Site("temporal", 0, "attn")
STEPS = 8  # of which every third is computed: 0, 1, 4 and, being the last two, 6 and 7
CONFIG = AdaCacheConfig(Codebook((), (3,)), metric_blocks=(0,))


class SlowTransfers:
    """A device whose copies are complete only once somebody waited for them; until then they hold NaN."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def to_host(self, tensor: Tensor) -> Tensor:
        self.log.append("to host")
        return torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor.clone()

    def to_device(self, host: Tensor) -> tuple[Tensor, Tensor]:
        self.log.append("to device")
        return torch.full_like(host, float("nan")), host

    def wait(self, arriving: tuple[Tensor, Tensor]) -> Tensor:
        self.log.append("wait")
        tensor, host = arriving
        return tensor.copy_(host)


@pytest.fixture
def log(monkeypatch) -> list[str]:
    """Makes the CPU a device with slow copies of its own; the list notes what they do."""
    calls: list[str] = []
    monkeypatch.setitem(storage_module.TRANSFERS, "cpu", lambda device: SlowTransfers(calls))
    return calls


def forward(controller: StepController, hidden_states: Tensor) -> Tensor:
    """One block that doubles its input."""
    return controller.stack(hidden_states, lambda x: x + controller.branch(SITE, lambda: x.clone()), tokens_per_frame=2)


def tokens(step: int) -> Tensor:
    return torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(step))


def sample(config: AdaCacheConfig) -> tuple[list[Tensor], StepController]:
    controller, outputs = StepController(config), []
    with controller.run(STEPS):
        for step in range(STEPS):
            controller.begin_step(step)
            outputs.append(forward(controller, tokens(step)))
    return outputs, controller


def test_by_default_a_tensor_is_kept_by_reference():
    tensor = torch.ones(3)
    kept = TensorStore().keep(tensor)
    kept.prefetch()
    assert kept.fetch() is tensor
    assert kept.memory == {"cpu": 12}


def test_the_cpu_has_nothing_to_be_moved_to():
    tensor = torch.ones(3)
    assert TensorStore("cpu").keep(tensor).fetch() is tensor


@pytest.mark.parametrize(("dtype", "nbytes"), [("bf16", 8), ("fp16", 8), ("fp32", 16)])
def test_a_tensor_is_narrowed_while_it_is_kept_and_comes_back_in_its_dtype(dtype, nbytes):
    tensor = torch.tensor([0.0, 1.0, -2.5, 1 + 2**-20])
    kept = TensorStore(dtype=dtype).keep(tensor)
    assert (kept.nbytes, kept.dtype, kept.shape) == (nbytes, torch.float32, tensor.shape)
    back = kept.fetch()
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, tensor, rtol=0 if dtype == "fp32" else 2**-8, atol=0)


def test_what_is_kept_exactly_is_not_narrowed():
    tensor = torch.ones(3)
    assert TensorStore(dtype="bf16").keep(tensor, exact=True).fetch() is tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp16_saturates_where_it_has_no_numbers_and_bf16_does_not(dtype):
    tensor = torch.tensor([1e6, -1e6, 65504.0, 3.0, float("nan")], dtype=dtype)
    before = tensor.clone()
    narrowed = TensorStore(dtype="fp16").keep(tensor).fetch()
    expected = torch.tensor([65504.0, -65504.0, 65504.0, 3.0, float("nan")]).to(dtype)
    torch.testing.assert_close(narrowed, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(tensor, before, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(TensorStore(dtype="bf16").keep(tensor).fetch()[:2], tensor[:2], rtol=2**-8, atol=0)


@pytest.mark.parametrize("bridge", ["hold", "linear", "fitted"])
@pytest.mark.parametrize("cache_dtype", [None, "bf16"])
def test_a_run_whose_residuals_are_elsewhere_gives_the_same_bits(log, bridge, cache_dtype):
    config = replace(CONFIG, bridge=bridge, cache_dtype=cache_dtype)
    here, stayed = sample(config)
    assert not log
    there, moved = sample(replace(config, cache_device="cpu"))
    assert log.count("to device") == log.count("wait") > 0
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    distances = [[record.distance for record in c.trace.records] for c in (stayed, moved)]
    assert distances[0] == distances[1]


def test_residuals_are_on_their_way_before_a_reused_step_needs_them_and_stay_away_from_computed_ones(log):
    controller = StepController(replace(CONFIG, bridge="linear", cache_device="cpu"))
    begun, done = [], []
    with controller.run(STEPS):
        for step in range(4):
            log.clear()
            controller.begin_step(step)
            begun.append(list(log))
            forward(controller, tokens(step))
            done.append(log[len(begun[-1]) :])
    keep_both = ["to host", "to host"]  # the measured residual and the stack's
    assert begun == [[], [], ["to device"] * 2, ["to device"] * 2]
    assert done == [keep_both, ["to device", "wait", *keep_both], ["wait"] * 2, ["wait"] * 2]


def test_a_tensor_is_fetched_once_for_every_prefetch(log):
    kept = TensorStore("cpu").keep(torch.ones(3))
    kept.prefetch()
    kept.prefetch()
    assert log == ["to host", "to device"]
    assert kept.fetch().tolist() == kept.fetch().tolist() == [1, 1, 1]
    assert log == ["to host", "to device", "wait", "to device", "wait"]


def test_bytes_are_counted_where_they_are(monkeypatch):
    monkeypatch.setitem(storage_module.TRANSFERS, "meta", lambda device: SlowTransfers([]))
    hidden_states = torch.empty(2, 4, 3, device="meta")
    one = hidden_states.nbytes
    for cache_device, at_rest in (("model", {"meta": 2 * one}), ("cpu", {"cpu": 2 * one})):
        controller = StepController(AdaCacheConfig(Codebook((), (1,)), metric_blocks=(0,), cache_device=cache_device))
        with controller.run(STEPS):
            controller.begin_step(0)
            forward(controller, hidden_states)
            assert controller.memory == at_rest
            assert controller.nbytes == 2 * one
        assert (controller.memory, controller.nbytes) == ({}, 0)


def test_bytes_on_their_way_count_on_both_sides(monkeypatch):
    monkeypatch.setitem(storage_module.TRANSFERS, "meta", lambda device: SlowTransfers([]))
    kept = TensorStore("cpu").keep(torch.empty(3, device="meta"))
    assert kept.memory == {"cpu": 12}
    kept._arriving = torch.empty(3, device="meta"), None
    assert kept.memory == {"cpu": 12, "meta": 12}
    assert kept.nbytes == 24


class FakeStream:
    """A CUDA stream that only notes what it is told."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: FakeStream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")

    def record_event(self) -> str:
        self.log.append(f"{self.name} marks completion")
        return "completion"


def test_cuda_copies_wait_for_the_computing_stream_and_the_host_for_nothing(monkeypatch):
    calls: list[str] = []
    compute, copies = FakeStream("compute", calls), FakeStream("copies", calls)
    empty_like = torch.empty_like

    @contextmanager
    def on(stream):
        calls.append(f"on {stream.name}")
        yield
        calls.append("back on compute")

    def allocate(tensor, device, pin_memory=False):
        calls.append(f"allocate {'pinned ' if pin_memory else ''}{device}")
        return empty_like(tensor)

    def copy(target, source, non_blocking=False):
        calls.append("copy" if non_blocking else "copy and wait")
        return target

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copies)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: compute)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch, "empty_like", allocate)
    monkeypatch.setattr(Tensor, "copy_", copy)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: calls.append(f"in use by {stream.name}"))
    transfers = CudaTransfers("cuda:0")

    host = transfers.to_host(torch.ones(2))
    assert calls == [
        "allocate pinned cpu", "copies waits for compute",
        "on copies", "copy", "back on compute", "in use by copies",
    ]  # fmt: skip
    calls.clear()
    arriving = transfers.to_device(host)
    assert calls == [
        "allocate cuda:0", "copies waits for compute",
        "on copies", "copy", "back on compute", "in use by copies", "copies marks completion",
    ]  # fmt: skip
    calls.clear()
    assert transfers.wait(arriving) is arriving[0]
    assert calls == ["compute waits for completion"]
