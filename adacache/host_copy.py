"""A few numbers on their way from the device to the host, without making either wait."""

import torch
from torch import Tensor


class HostCopy:
    """A copy of a small tensor that begins now; on CUDA it is queued behind what makes the tensor.

    Work that is queued later does not delay it, so that a number of one step can be read while the next one runs.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._values = tensor
        if tensor.is_cuda:
            self._values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._values.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> list[float]:
        """The numbers of a vector, as plain ones; waits until they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.tolist()
