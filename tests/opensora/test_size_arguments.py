"""Size information as the reference gives it, in float32 and bfloat16."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from opensora.pipeline import SamplingPipeline

GOLDEN = Path(__file__).parents[1] / "golden" / "tables"
# Upstream has two more kinds, which its v1.2 configs do not use: "OpenSora" gives the same as "STDiT2".
ROWS = [
    row
    for row in json.loads((GOLDEN / "prompts.json").read_text())["prepare_multi_resolution_info"]
    if row["info_type"] != "PixArtMS"
]


def size_arguments(row: dict, dtype: torch.dtype) -> dict[str, Tensor]:
    height, width = row["image_size"]
    config = SimpleNamespace(multi_resolution=row["info_type"], height=height, width=width)
    config.num_frames, config.fps = row["num_frames"], row["fps"]
    pipe = SimpleNamespace(config=config, model=SimpleNamespace(device="cpu", dtype=dtype))
    return SamplingPipeline.size_arguments(pipe, row["batch_size"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["info_type"]))
@pytest.mark.parametrize(("dtype", "key"), [(torch.float32, "result_fp32"), (torch.bfloat16, "result_bf16")])
def test_rows_of_the_reference(row, dtype, key):
    info = size_arguments(row, dtype)
    assert {name: value.tolist() for name, value in info.items()} == row[key]
    assert all(value.dtype == dtype for value in info.values())


def test_an_image_has_frame_rate_120_and_a_batch_repeats():
    row = {"info_type": "STDiT2", "image_size": (480, 854), "num_frames": 1, "fps": 24, "batch_size": 3}
    info = size_arguments(row, torch.bfloat16)
    assert info["fps"].tolist() == [120, 120, 120]
    assert info["width"].tolist() == [856, 856, 856]  # 854 in 8 significant bits
