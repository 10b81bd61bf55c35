"""How much a video moves, estimated from the residual of one block before there are any pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adacache.distance import absolute_change, magnitude, ratio
from adacache.frames import FrameSet


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
