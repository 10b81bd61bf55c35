"""Size information as the reference gives it, in float32 and bfloat16."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from opensora.pipeline import prepare_multi_resolution_info

GOLDEN = Path(__file__).parents[1] / "golden" / "tables"
ROWS = json.loads((GOLDEN / "prompts.json").read_text())["prepare_multi_resolution_info"]
ROWS = [row for row in ROWS if row["info_type"] != "PixArtMS"]  # of other models of upstream


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["info_type"]))
@pytest.mark.parametrize(("dtype", "key"), [(torch.float32, "result_fp32"), (torch.bfloat16, "result_bf16")])
def test_rows_of_the_reference(row, dtype, key):
    info = prepare_multi_resolution_info(
        row["info_type"], row["batch_size"], row["image_size"], row["num_frames"], row["fps"], "cpu", dtype
    )
    assert {name: value.tolist() for name, value in info.items()} == row[key]
    assert all(value.dtype == dtype for value in info.values())


def test_an_image_has_frame_rate_120_and_a_batch_repeats():
    info = prepare_multi_resolution_info("STDiT2", 3, (480, 854), 1, 24, "cpu", torch.bfloat16)
    assert info["fps"].tolist() == [120, 120, 120]
    assert info["width"].tolist() == [856, 856, 856]  # 854 in 8 significant bits
