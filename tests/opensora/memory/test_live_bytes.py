from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from opensora.memory.live_bytes import peak_live_bytes
from opensora.models.stdit import STDiT3, STDiT3Config

MEGABYTE = 250_000  # numbers in float32


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bytes_are_those_alive_together(device):
    given = torch.zeros(MEGABYTE, device=device)

    def chain():
        x = given + 1  # 1 MB
        x = x * 2  # two of them, then one
        return x.view(500, 500)[:100].t() + 0  # a view takes nothing, its sum 0.2 MB

    assert peak_live_bytes(chain) == 2_000_000


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_existed_before_does_not_count_even_through_views(device):
    given = torch.zeros(MEGABYTE, device=device)
    assert peak_live_bytes(lambda: given.view(500, 500).t().add_(1)) == 0


def test_a_list_keeps_its_tensors_alive():
    assert peak_live_bytes(lambda: [torch.zeros(MEGABYTE, device="meta") for _ in range(3)]) == 3_000_000
    assert peak_live_bytes(lambda: [torch.zeros(MEGABYTE, device="meta") is None for _ in range(3)]) == 1_000_000


@pytest.mark.parametrize("masked", [False, True])
def test_attention_counts_the_same_without_storage(masked):
    def attend(device):
        q, k, v = torch.zeros(3, 2, 300, 4, 16, device=device).transpose(2, 3).unbind(0)
        mask = torch.ones(2, 1, 1, 300, dtype=torch.bool, device=device) if masked else None
        return peak_live_bytes(
            lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        )

    found, expected = attend("meta"), attend("cpu")
    assert 0 <= expected - found <= 2 * 300 * 4  # the mask as floats
    assert found < 4 * 2 * 4 * 300 * 300 / 4  # far below the matrix of queries and keys


@pytest.mark.parametrize("with_mask", [False, True])
def test_a_forward_pass_counts_the_same_without_storage(with_mask):
    config = STDiT3Config(hidden_size=64, depth=2, num_heads=4, caption_channels=32, model_max_length=8)

    def forward(device):
        with torch.device(device):
            model = STDiT3(config).eval()
            inputs = {"x": torch.zeros(2, 4, 5, 32, 24), "timestep": torch.zeros(2), "y": torch.zeros(2, 1, 8, 32)}
            inputs |= {"fps": torch.ones(1), "height": torch.ones(1), "width": torch.ones(1)}
            inputs["x_mask"] = torch.ones(2, 5, dtype=torch.bool) if with_mask else None
        return peak_live_bytes(lambda: model(**inputs))

    found = forward("meta")
    assert found == forward("cpu")
    assert found > 4 * 2 * 5 * 16 * 12 * 64 * 8  # the MLP's two wide tensors


def test_the_peak_does_not_depend_on_the_depth():
    peaks = []
    for depth in (1, 2, 9):
        with torch.device("meta"):
            model = STDiT3(replace(STDiT3Config(), depth=depth)).to(torch.bfloat16)
            inputs = {"x": torch.zeros(2, 4, 5, 30, 40), "timestep": torch.zeros(2), "y": torch.zeros(2, 1, 300, 4096)}
        peaks.append(peak_live_bytes(lambda: model(**inputs)))  # noqa: B023
    assert peaks[1] == peaks[2] >= peaks[0]
