"""Sections, figures and clocks of a check that has few minutes on a machine."""

from __future__ import annotations

import json
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.timing.models import RESOLUTIONS


@dataclass(frozen=True)
class Section:
    """One part of the check.

    Attributes:
        run: measures and reports; an exception fails only this section.
        seconds: the most it takes on an H100; it is not begun if less time is left.
    """

    name: str
    run: Callable[[Check], None]
    seconds: float


class Check:
    """Measures and reports: figures go to a file at once, one JSON object per line.

    Attributes:
        device: the device that is measured.
        tiny: whether tensors are small, for a dry run on a CPU that finds mistakes in the check itself.
        weights_dir: folder of published weights; None if there are none.
        failed: names of sections that raised, or found something wrong.
        not_run: names of sections for which too little time was left.
    """

    def __init__(self, out: Path, device: torch.device, deadline: float, weights_dir: Path | None = None) -> None:
        self.device = device
        self.tiny = device.type == "cpu"
        self.weights_dir = weights_dir
        self.failed: list[str] = []
        self.not_run: list[str] = []
        self._section = ""
        self._started = time.monotonic()
        self._deadline = deadline
        out.mkdir(parents=True, exist_ok=True)
        file = out / "gpu_check.jsonl"
        if file.is_file():  # of an earlier run, which may have measured what this one does not
            os.replace(file, next(f for n in count(1) if not (f := out / f"gpu_check-{n}.jsonl").exists()))
        self._file = file.open("w", encoding="utf-8")

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - (time.monotonic() - self._started)

    @property
    def resolutions(self) -> tuple[str, ...]:
        """The resolutions to measure: all, or one in a dry run, whose sizes do not depend on it."""
        return RESOLUTIONS[: 1 if self.tiny else None]

    def run(self, sections: Sequence[Section]) -> None:
        """Run sections one after the other; one for which too little time is left is reported as not run."""
        for section in sections:
            self._section = section.name
            if not self.tiny and self.seconds_left < section.seconds:
                self.not_run.append(section.name)
                self.note("not run", f"it needs {section.seconds:.0f} s, and {self.seconds_left:.0f} s are left")
                continue
            began = time.monotonic()
            try:
                section.run(self)
            except Exception as error:
                traceback.print_exc()
                self.wrong("failed", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            self.figure("section took", time.monotonic() - began, "s")
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def verdict(self) -> str:
        """Return the last line: which sections are not right, which were not run, or that all are right."""
        if not self.failed and not self.not_run:
            return "all sections are right"
        named = {"not right": self.failed, "not run": self.not_run}
        return "; ".join(f"{what}: {', '.join(names)}" for what, names in named.items() if names)

    def figure(self, what: str, value: float, unit: str, **more: Any) -> None:
        """Report a number."""
        self._write(what, value, unit, more)

    def note(self, what: str, text: str, **more: Any) -> None:
        """Report a text."""
        self._write(what, text, "", more)

    def error(self, what: str, value: float, limit: float) -> None:
        """Report a deviation; if it is above its limit, or NaN, the section has failed."""
        self._write(what, value, "", {"limit": limit, "right": value <= limit})
        if not value <= limit:
            self._fail()

    def wrong(self, what: str, text: str) -> None:
        """Report something wrong; the section has failed."""
        self._write(what, text, "", {"right": False})
        self._fail()

    def _fail(self) -> None:
        if self._section not in self.failed:
            self.failed.append(self._section)

    def _write(self, what: str, value: float | str, unit: str, more: dict[str, Any]) -> None:
        spent = time.monotonic() - self._started
        entry = {"section": self._section, "what": what, "value": value, "unit": unit, **more}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        shown = f"{value:.4g}" if isinstance(value, float) else value
        rest = "".join(f", {name} {_short(extra)}" for name, extra in more.items())
        print(f"{spent:6.1f} s | {self._section} | {what}: {shown} {unit}{rest}", flush=True)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def milliseconds(self, function: Callable[[], Any], repeats: int = 5, warm_up: int = 2) -> float:
        """Return the median time of a call by the device's own clock."""
        for _ in range(warm_up):
            function()
        times = []
        for _ in range(1 if self.tiny else repeats):
            if self.device.type == "cuda":
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                function()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end))
            else:
                began = time.perf_counter()
                function()
                times.append(1000 * (time.perf_counter() - began))
        return statistics.median(times)

    def seconds(self, function: Callable[[], Any]) -> float:
        """Return the seconds of one call by the host's clock, until the device is done."""
        self.synchronize()
        began = time.perf_counter()
        function()
        self.synchronize()
        return time.perf_counter() - began

    @contextmanager
    def peak(self, what: str, **more: Any) -> Iterator[None]:
        """Report the most memory that tensors take within the block, on CUDA."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        yield
        if self.device.type == "cuda":
            self.figure(what, torch.cuda.max_memory_allocated(self.device) / 1e9, "GB", **more)

    def randn(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """Return normal noise on the device."""
        return torch.randn(*shape, device=self.device, dtype=dtype)


def top_kernels(check: Check, function: Callable[[], Any], count: int) -> None:
    """Report the kernels of a call by the time they take."""
    function()
    check.synchronize()
    on_gpu = check.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        function()
        check.synchronize()
    times = {
        event.key: (event.count, (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1000)
        for event in profiler.key_averages()
    }
    total = sum(spent for _, spent in times.values())
    check.figure("all kernels", total, "ms")
    for key in sorted(times, key=lambda key: -times[key][1])[:count]:
        calls, spent = times[key]
        check.figure(f"  {key[:110]}", spent, "ms", calls=calls, share=spent / total)


def largest(errors: Sequence[float]) -> float:
    """Return the largest error; NaN if one is NaN, which Python's own `max` passes over."""
    return torch.tensor(errors, dtype=torch.float64).max().item()


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of the expected tensor."""
    value, expected = value.double().cpu(), expected.double().cpu()
    return ((value - expected).norm() / expected.norm()).item()


def largest_difference(value: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference of two elements."""
    return (value.cpu().float() - expected.cpu().float()).abs().max().item()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
