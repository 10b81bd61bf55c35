from __future__ import annotations

import torch

from opensora.memory.measure import StageMeter

CPU = torch.device("cpu")


def fake_process(folder, rss, peak=None):
    rows = [f"VmRSS:\t{rss} kB", "Threads:\t1"] + ([] if peak is None else [f"VmHWM:\t{peak} kB"])
    (folder / "status").write_text("\n".join(rows))
    return folder


def test_stages_are_measured_above_the_baseline_and_the_largest_is_kept(tmp_path):
    meter = StageMeter(CPU, fake_process(tmp_path, 1000))
    (tmp_path / "clear_refs").touch()
    for name, peak in (("text", 3000), ("denoise", 1500), ("decode", 9000), ("denoise", 2500), ("denoise", 1200)):
        with meter.stage(name):
            assert (tmp_path / "clear_refs").read_text() == "5"  # the peak starts anew
            fake_process(tmp_path, 1000, peak)
    assert meter.stages == {"text": 2000 * 1024, "denoise": 1500 * 1024, "decode": 8000 * 1024}
    assert meter.as_dict() == {
        "what": "resident above baseline",
        "unit": "bytes",
        "baseline": 1000 * 1024,
        "stages": meter.stages,
    }
    assert meter.line() == (
        "memory, measured: text 2.05 MB, denoise 1.54 MB, decode 8.19 MB, beside 1.02 MB of Python and its libraries"
    )


def test_where_the_peak_cannot_be_reset_it_is_an_upper_bound(tmp_path):
    meter = StageMeter(CPU, fake_process(tmp_path, 1000, 5000))
    (tmp_path / "clear_refs").mkdir()  # as on a system that forbids it
    with meter.stage("text"):
        pass
    assert meter.as_dict()["upper_bound"]
    assert meter.line().startswith("memory, measured: text at most 4.10 MB, ")


def test_a_stage_that_fails_is_measured(tmp_path):
    meter = StageMeter(CPU, fake_process(tmp_path, 1000, 5000))
    try:
        with meter.stage("decode"):
            raise ValueError
    except ValueError:
        assert meter.stages == {"decode": 4000 * 1024}


def test_a_system_that_says_nothing(tmp_path):
    meter = StageMeter(CPU, tmp_path / "nowhere")
    with meter.stage("text"):
        pass
    assert meter.stages == {}
    assert meter.as_dict() is None
    assert meter.line() is None


def test_on_a_gpu_it_is_what_tensors_held(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7_000_000_000)
    meter = StageMeter(torch.device("cuda"))
    with meter.stage("denoise"):
        assert calls == ["synchronize", "reset"]
    assert meter.line() == "memory, measured: denoise 7.00 GB"
    assert meter.as_dict() == {
        "what": "allocated",
        "unit": "bytes",
        "baseline": 0,
        "stages": {"denoise": 7_000_000_000},
    }


def test_this_process():
    meter = StageMeter(CPU)
    with meter.stage("tensor"):
        tensor = torch.ones(50_000_000)  # 200 MB
        del tensor
    if meter.stages:
        assert meter.stages["tensor"] > 150_000_000
