"""Folders as sampling runs leave them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opensora.datasets.video_io import write_video


@pytest.fixture
def save(tmp_path) -> Callable[..., Path]:
    """Write a clip with its record into a folder of ``tmp_path``: lossless, as a video, or both."""

    def write(
        folder: str, name: str, frames: np.ndarray, *kinds: str, prompt: str | None = None, seed: int = 1024
    ) -> Path:
        target = tmp_path / folder
        target.mkdir(exist_ok=True)
        for kind in kinds or ("npz",):
            if kind == "npz":
                np.savez_compressed(target / f"{name}.frames.npz", frames=frames)
            else:
                write_video(target / name, frames, fps=8)
        if prompt is not None:
            video = f"{name}.png" if len(frames) == 1 else f"{name}.mp4"
            metadata = {"video": video, "prompt": prompt, "seed": seed, "config": {"save_fps": 8}}
            (target / f"{name}.json").write_text(json.dumps({"metadata": metadata}))
        return target

    return write
