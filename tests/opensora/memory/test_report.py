from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from adacache.policies.easycache import EasyCacheConfig
from opensora.errors import ConfigError
from opensora.memory import report
from opensora.memory.report import StageEstimate, check_memory, estimate_line, fixes

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GB = 1_000_000_000


@pytest.fixture
def machine(monkeypatch):
    """Sets what is free, and what the stages of a run take."""

    def set_up(free, **totals):
        monkeypatch.setattr(report, "free_memory", lambda device: free)
        stages = [StageEstimate(name, total // 4, total - total // 4) for name, total in totals.items()]
        if stages:
            monkeypatch.setattr(report, "estimate_stages", lambda *arguments: stages)

    return set_up


def test_the_line_before_a_run():
    stages = [StageEstimate("text", 19 * GB, GB // 10), StageEstimate("denoise", 3 * GB, 2 * GB, GB // 2)]
    assert estimate_line(stages, 24 * GB, "cuda") == (
        "memory, estimated: text 19.10 GB (weights 19.00 GB, activations 0.10 GB), denoise 5.50 GB (weights 3.00 GB, "
        "activations 2.00 GB, cache 0.50 GB); 24.00 GB are free on the GPU"
    )


def test_a_run_is_logged_and_its_batch_is_no_larger_than_its_videos(mini, caplog):
    config = mini(batch_size=8)
    with caplog.at_level(logging.DEBUG, "opensora"):
        few = check_memory(config, 1, CPU)
        many = check_memory(config, 100, CPU)
    assert caplog.messages[0].startswith("memory, estimated: text ")
    assert " are free in CPU memory" in caplog.messages[0]
    assert 7 < many[1].activations / few[1].activations < 9


def test_what_cannot_fit_on_a_gpu_is_refused(mini, machine):
    machine(8 * GB, text=19 * GB, denoise=6 * GB)
    with pytest.raises(ConfigError) as caught:
        check_memory(mini(), 1, GPU)
    assert str(caught.value) == (
        "memory: text would take 19.00 GB on the GPU, where 8.00 GB are free; it takes less with "
        "text_encoder.dtype='bf16' or text_encoder.quantize='int8' or text_encoder.stream=True or --low-memory"
    )


def test_what_may_not_fit_is_warned_of(mini, machine, caplog):
    machine(20 * GB, text=19 * GB)
    check_memory(mini(), 1, GPU)
    assert caplog.messages == [
        "WARNING memory: text may not fit, as fragmentation adds to it; it takes less with "
        "text_encoder.dtype='bf16' or text_encoder.quantize='int8' or text_encoder.stream=True or --low-memory"
    ]


def test_on_the_cpu_too_little_is_only_warned_of(mini, machine, caplog):
    machine(GB, decode=2 * GB)
    check_memory(mini(), 1, CPU)
    assert caplog.messages == [
        "WARNING memory: decode would take 2.00 GB in CPU memory, where 1.00 GB are free; it takes less with "
        "vae.tiling=True or vae.micro_batch_size=1 or --low-memory or a lower resolution"
    ]


@pytest.mark.parametrize(
    ("stage", "options", "expected"),
    [
        ("denoise", {"batch_size": 2}, ["dtype='bf16'", "--low-memory", "batch_size=1", "a lower resolution"]),
        ("denoise", {"dtype": "bf16"}, ["a lower resolution"]),
        ("decode", {"low_memory": True}, ["a lower resolution"]),
        ("text", {"low_memory": True}, ["text_encoder.quantize='int8'", "text_encoder.stream=True"]),
    ],
)
def test_only_what_is_not_done_yet_is_proposed(mini, stage, options, expected):
    found = fixes(mini(**options), StageEstimate(stage, 1, 1))
    assert [fix for fix in found if fix != "fewer frames"] == expected


def test_where_nothing_makes_a_stage_smaller_nothing_is_proposed(mini, machine, caplog):
    machine(GB, text=2 * GB)
    check_memory(mini(low_memory=True, **{"text_encoder.stream": True}), 1, CPU)
    assert caplog.messages == ["WARNING memory: text would take 2.00 GB in CPU memory, where 1.00 GB are free"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"bridge": "linear"}, ["cache.cache_device='cpu'", "cache.cache_dtype='bf16'", "cache.bridge='hold'"]),
        ({"cache_dtype": "bf16"}, ["cache.cache_device='cpu'"]),
        ({"cache_device": "cpu", "bridge": "linear"}, []),
    ],
)
def test_a_cache_on_the_gpu_can_go_elsewhere_or_be_smaller(mini, options, expected):
    config = mini()
    config = replace(config, cache=replace(config.cache, **options))
    found = fixes(config, StageEstimate("denoise", 1, 1, 1))
    assert [fix for fix in found if fix.startswith("cache.")] == expected


def test_on_the_cpu_a_cache_can_only_be_smaller(mini):
    config = mini()
    config = replace(config, cache=replace(config.cache, bridge="linear"))
    found = fixes(config, StageEstimate("denoise", 1, 1, 1), "cpu")
    assert [fix for fix in found if fix.startswith("cache.")] == ["cache.cache_dtype='bf16'", "cache.bridge='hold'"]


def test_what_keeps_outputs_is_not_told_to_keep_them_in_another_precision(mini):
    config = replace(mini(), cache=EasyCacheConfig())
    assert [fix for fix in fixes(config, StageEstimate("denoise", 1, 1, 1)) if fix.startswith("cache.")] == [
        "cache.cache_device='cpu'"
    ]


def test_a_cache_in_cpu_memory_must_fit_there(mini, machine, monkeypatch):
    machine(20 * GB, denoise=GB)
    config = mini()
    config = replace(config, cache=replace(config.cache, cache_device="cpu", bridge="fitted"))
    check_memory(config, 1, GPU)
    monkeypatch.setattr(report, "free_in_cpu_memory", lambda: 1000)
    with pytest.raises(ConfigError) as caught:
        check_memory(config, 1, GPU)
    assert str(caught.value) == (
        "memory: the cache would take 0.25 MB in CPU memory, where 0.00 MB are free; it takes less with "
        "cache.cache_dtype='bf16' or cache.bridge='hold' or a smaller batch_size or video"
    )
    check_memory(config, 1, CPU)  # there it counts with the rest
