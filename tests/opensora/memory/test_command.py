"""720p, 2 seconds, in 24 GB: by arithmetic, as no such card is at hand."""

from __future__ import annotations

import pytest

from opensora.memory import report
from opensora.memory.__main__ import main
from opensora.memory.report import CARD, StageEstimate, card_bytes, estimate_stages

PUBLISHED = "configs/sample_adacache.py"
HIDDEN_STATE = 2 * 15 * 45 * 80 * 1152 * 2  # bytes: both guidance halves, 54,000 tokens, bf16


@pytest.fixture(scope="module")
def stages(mini) -> dict[bool, list[StageEstimate]]:
    """The stages without and with --low-memory."""
    return {low: estimate_stages(mini(PUBLISHED, low_memory=low), 1) for low in (False, True)}


@pytest.mark.parametrize(("low_memory", "card"), [(False, CARD), (True, CARD // 2)])
def test_720p_2s_fits_24_gb_and_with_low_memory_12_gb(stages, low_memory, card):
    for stage in stages[low_memory]:
        assert card_bytes(stage.total) < card
        # Kernels may take as much as all tensors for themselves, as convolutions in another memory format do.
        if stage.name != "text":
            assert card_bytes(stage.total + stage.activations) < CARD


def test_the_numbers_can_be_worked_out_by_hand(stages):
    _, denoise, decode = stages[False]
    assert denoise.cache == 2 * HIDDEN_STATE  # a residual, and one that is measured
    # Before the MLP's second layer: its hidden activations before and after the GELU, and a few hidden states.
    assert 2 * 4 * HIDDEN_STATE < denoise.activations < 2 * 4 * HIDDEN_STATE + 6 * HIDDEN_STATE
    # Four frames of 256 channels at full size are convolved: input and output, both copied to another layout.
    feature_map = 4 * 256 * 720 * 1280 * 2
    assert 4 * feature_map < decode.activations < 5 * feature_map


def test_its_help_says_what_it_prints(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "Print how much memory each stage of a run would take." in text and "Sample videos" not in text


def test_the_command_prints_both_tables(stages, capsys, monkeypatch):
    monkeypatch.setattr(report, "estimate_stages", lambda config, batch: stages[config.low_memory])
    assert main(["configs/sample_adacache.py"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "configs/sample_adacache.py: 720 x 1280 pixels, 51 frames, batches of 1, bf16"
    assert lines[1].split() == ["GB", "weights", "activations", "cache", "total", "on", "a", "card"]
    assert lines[2].split()[:2] == ["text", "19.05"]
    assert "with --low-memory:" in lines
    assert sum(line.endswith("fits 24 GB") for line in lines) == 2


def test_what_does_not_fit_is_said(capsys, monkeypatch):
    monkeypatch.setattr(report, "estimate_stages", lambda config, batch: [StageEstimate("decode", 0, batch * CARD)])
    assert main(["configs/sample_adacache.py"]) == 0
    assert capsys.readouterr().out.count("does not fit 24 GB") == 2


def test_bad_flags_end_with_one_sentence(capsys):
    assert main(["configs/sample_adacache.py", "--ckpt-path", "some/model"]) == 2
    assert capsys.readouterr().err.startswith("error: model.from_pretrained='some/model' is not on this machine")
    assert main(["--words"]) == main(["--from-sidecar", "a.json"]) == 2
    assert capsys.readouterr().err.count("is for sampling; give a config and its flags") == 2
