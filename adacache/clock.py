"""Milliseconds per step, without making the device wait."""

import time

import torch


class StepClock:
    """Marks moments on the device's own timeline and gives the milliseconds between them afterwards.

    On CUDA a moment is an event in the stream, since the host runs ahead of the device; elsewhere it is the
    host's clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[torch.cuda.Event | float] = []

    def mark(self) -> None:
        """Mark this moment; never waits."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def intervals(self) -> list[float]:
        """Milliseconds from each mark to the next; waits until the device has passed the last one."""
        pairs = list(zip(self._marks, self._marks[1:], strict=False))
        if self._device.type == "cuda":
            self._marks[-1].synchronize()
            return [start.elapsed_time(end) for start, end in pairs]
        return [1000 * (end - start) for start, end in pairs]
