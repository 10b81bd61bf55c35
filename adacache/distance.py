"""How much a residual changed, and differs between frames: sums accumulated in float32 on the tensors' own device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adacache.frames import FrameSet

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


def motion_score(
    residual: Tensor, tokens_per_frame: int, strides: Sequence[int], frames: FrameSet | None = None
) -> Tensor | None:
    """The relative difference of frames: 0 for a still residual, at most 1; a 0-dim float32 tensor.

    `residual` is (B, N, C) with its tokens frame by frame (N = frames * tokens_per_frame). For every stride,
    frames that lie so far apart are compared, sum|later - earlier| / (sum|later| + sum|earlier|); the score
    is the mean over the strides. Strides that leave no pair of frames are left out. With none left, as for an
    image, there is no motion to speak of and the answer is None (the official code divides 0 by 0 there).

    Of videos that are given in part, only pairs of `frames` count of which both are generated: held ones stand still
    because they are held.

    Raises: ValueError when the tokens do not make whole frames.
    Source: arXiv:2411.02397, Motion Regularization (motion score).
    """
    return score_of_terms(motion_terms(residual, tokens_per_frame, strides, frames))


def motion_terms(
    residual: Tensor, tokens_per_frame: int, strides: Sequence[int], frames: FrameSet | None = None
) -> list[Tensor]:
    """Numerator and denominator for each stride of `motion_score`, one after the other, as 0-dim tensors.

    They are apart because tokens that are spread over processes need the sums from everyone before the division.

    Raises: ValueError as `motion_score`.
    """
    num_tokens = residual.shape[1]
    if tokens_per_frame < 1 or num_tokens % tokens_per_frame != 0:
        raise ValueError(
            f"{num_tokens} tokens do not make whole frames of tokens_per_frame={tokens_per_frame}; "
            "pass (B, N, C) residuals with N = frames * tokens_per_frame"
        )
    terms = []
    for stride in strides:
        pairs = _pairs(residual, stride, tokens_per_frame, frames or FrameSet())
        if pairs is not None:
            later, earlier = pairs
            terms += [absolute_change(later, earlier), magnitude(later) + magnitude(earlier)]
    return terms


def score_of_terms(terms: Sequence[Tensor]) -> Tensor | None:
    """The motion score that `motion_terms`, summed over all parts of a video, stand for; None without any."""
    scores = [ratio(*pair) for pair in zip(terms[::2], terms[1::2], strict=True)]
    return torch.stack(scores).mean() if scores else None


def _pairs(residual: Tensor, stride: int, tokens_per_frame: int, frames: FrameSet) -> tuple[Tensor, Tensor] | None:
    """Later and earlier frames that lie `stride` apart, of one shape; None where there are none."""
    if frames.videos is not None:
        return frames.take_pairs(residual, stride)
    shift = stride * tokens_per_frame
    if shift >= residual.shape[1]:
        return None
    return residual[:, shift:], residual[:, :-shift]  # (B, N - shift, C) each
