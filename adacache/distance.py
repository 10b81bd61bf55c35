"""How much a residual changed: sums over whole tensors, accumulated in float32 on the tensors' own device."""

import torch
from torch import Tensor

NORM_UP_TO = 2**15  # elements


def relative_change(previous: Tensor, current: Tensor) -> Tensor:
    """sum|previous - current| / sum|previous| over all elements, as a 0-dim float32 tensor on their device.

    Both have one shape, e.g. (B, N, C), and any float dtype; bfloat16 is widened before it is subtracted, so
    that small changes survive. No change at all is 0 even where `previous` is all zeros; a change from all
    zeros is inf.

    Raises: ValueError when the shapes differ.
    Source: arXiv:2411.02397, Adaptive Caching (distance metric), before the division by the number of steps
    in between.
    """
    change, magnitude = change_terms(previous, current)
    return ratio(change, magnitude)


def change_terms(previous: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of `relative_change`.

    They are apart because a tensor that is spread over processes needs both sums from everyone before the
    division.
    """
    if previous.shape != current.shape:
        raise ValueError(
            f"cannot compare a residual of shape {tuple(current.shape)} with the previous one of shape "
            f"{tuple(previous.shape)}; start a new run when the shape of the latents changes"
        )
    return absolute_change(previous, current), magnitude(previous)


def absolute_change(a: Tensor, b: Tensor) -> Tensor:
    """sum|a - b| as a 0-dim float32 tensor."""
    return _sum_of_magnitudes(a.float() - b.float())


def magnitude(a: Tensor) -> Tensor:
    """sum|a| as a 0-dim float32 tensor."""
    return _sum_of_magnitudes(a.float())


def _sum_of_magnitudes(a: Tensor) -> Tensor:
    # The 1-norm is what the official code takes, and up to its rounding MoReg's eighth power can be compared with it.
    # On the CPU it adds up elements one after another, which over millions of float32 loses the sum.
    if a.numel() <= NORM_UP_TO:
        return torch.linalg.vector_norm(a, ord=1)
    return a.abs().sum()


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, with 0 / 0 = 0: where there is nothing to change, nothing changed."""
    return torch.where(numerator == 0, torch.zeros_like(numerator), numerator / denominator)
