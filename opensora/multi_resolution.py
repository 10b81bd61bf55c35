"""Size information the model is conditioned on, as batch tensors.

Source: opensora/utils/inference_utils.py (Open-Sora v1.2).
"""

import torch

IMG_FPS = 120  # the frame rate the model was trained to read as "this is an image"

_INFO_TYPES = ("OpenSora", "STDiT2", "PixArtMS")


def prepare_multi_resolution_info(
    info_type: str | None,
    batch_size: int,
    image_size: tuple[int, int],
    num_frames: int,
    fps: float,
    device: torch.device | str,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """Keyword arguments of the model that tell it what it draws; nothing for `info_type` None.

    `image_size` is (height, width) in pixels. "OpenSora" and "STDiT2" give height, width, num_frames, ar
    (height over width) and fps, each [B]; "PixArtMS" gives ar [B, 1] and hw [B, 2]. With bfloat16, sizes are
    rounded to 8 significant bits (854 becomes 856), as in the reference.

    Raises: ValueError for an unknown `info_type`.
    """
    height, width = image_size

    def per_sample(value: float | list[float]) -> torch.Tensor:
        row = torch.tensor([value], device=device, dtype=dtype)
        return row.repeat(batch_size, *[1] * (row.ndim - 1))

    if info_type is None:
        return {}
    if info_type == "PixArtMS":
        return {"ar": per_sample([height / width]), "hw": per_sample([height, width])}
    if info_type in _INFO_TYPES:
        return {
            "height": per_sample(height),
            "width": per_sample(width),
            "num_frames": per_sample(num_frames),
            "ar": per_sample(height / width),
            "fps": per_sample(IMG_FPS if num_frames == 1 else fps),
        }
    raise ValueError(f"unknown multi_resolution {info_type!r}: use {', '.join(_INFO_TYPES)} or None")
