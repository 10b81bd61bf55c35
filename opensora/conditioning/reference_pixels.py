"""References as the model gets them: frames resized to cover the size of the video, then cropped at the center.

Images and videos differ in filter and rounding, as in the data pipeline that the model was trained with.

Source: opensora/datasets/utils.py (Open-Sora v1.2), resize_crop_to_fill for images and ResizeCrop for videos.
"""

from __future__ import annotations

import os
from collections import deque
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from opensora.conditioning.reference_frames import StillImage
from opensora.conditioning.references import opened_reference
from opensora.errors import ConfigError


def read_reference(
    path: str | os.PathLike[str],
    height: int,
    width: int,
    max_frames: int | None = None,
    last_frames: int | None = None,
) -> torch.Tensor:
    """Return frames (3, F, height, width) float32 in [-1, 1] of a reference, resized to cover that size and cropped.

    F is 1 for an image. The frames of a video are resized while they are decoded, so that memory does not depend on
    their size; reading stops after `max_frames`, and of those read, at most `last_frames` are kept, the last ones.
    Colors are RGB: a transparent image loses its alpha, as upstream.

    Raises:
        ConfigError: `check_reference` would refuse the file, a video is damaged further on, or a size is below 1.
    """
    path = Path(path)
    if height < 1 or width < 1 or (max_frames is not None and max_frames < 1):
        raise ConfigError(f"reference '{path}': size and max_frames must be at least 1")
    with opened_reference(path) as source:
        if isinstance(source, StillImage):
            return crop_image(source.image(), height, width)
        read = (crop_frame(frame, height, width) for frame in islice(source.frames(), max_frames))
        frames = deque(read, maxlen=last_frames)
    if not frames:
        raise ConfigError(f"reference '{path}' holds no frames")
    return torch.stack(list(frames), dim=1)


def crop_image(image: Image.Image, height: int, width: int) -> torch.Tensor:
    """Resize and crop an RGB image to (3, 1, height, width) float32 in [-1, 1]: bicubic, with Pillow's antialiasing."""
    cover_height, cover_width = _cover(image.height, image.width, height, width)
    image = image.resize((cover_width, cover_height), Image.Resampling.BICUBIC)
    top, left = round((cover_height - height) / 2.0), round((cover_width - width) / 2.0)
    image = image.crop((left, top, left + width, top + height))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, None]  # (3, 1, height, width)
    return _normalized(pixels.float().div_(255)).contiguous()


def crop_frame(frame: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Resize and crop a frame (H, W, 3) uint8 to (3, height, width) float32 in [-1, 1]: bilinear, no antialiasing."""
    pixels = torch.tensor(frame).permute(2, 0, 1)[None].float().div_(255)  # (1, 3, H, W)
    cover = _cover(*frame.shape[:2], height, width)
    pixels = interpolate(pixels, size=cover, mode="bilinear", align_corners=False)
    top, left = (cover[0] - height) // 2, (cover[1] - width) // 2  # rounded down, unlike for images
    # The copy frees the pixels that are cut off.
    return _normalized(pixels[0, :, top : top + height, left : left + width].clone())


def _cover(source_height: int, source_width: int, height: int, width: int) -> tuple[int, int]:
    """Return (height, width) in the source's proportions: one side equals the target's, the other is no shorter."""
    by_height, by_width = height / source_height, width / source_width
    if by_height > by_width:
        return height, max(width, round(source_width * by_height))
    return max(height, round(source_height * by_width)), width


def _normalized(pixels: torch.Tensor) -> torch.Tensor:
    """Map [0, 1] to [-1, 1], in place."""
    return pixels.sub_(0.5).div_(0.5)
