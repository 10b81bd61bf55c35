"""The run loop: batches, seeds, file names, and what lies beside each video."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from adacache.trace import StepRecord, Trace
from opensora import sampling_run
from opensora.config.loading import load_config
from opensora.datasets.video_io import read_video
from opensora.utils.run_prompts import read_prompts
from opensora.utils.weights import WeightPaths

ROOT = Path(__file__).resolve().parents[2]


class FakePipeline:
    """Answers every call with gray videos and a trace that computed steps 0, 1 and 29; may fail at a prompt."""

    def __init__(self, config, fail_at: str | None = None):
        self.config = config
        self.fail_at = fail_at
        self.calls: list[tuple[list[str], list[int]]] = []
        self.model = SimpleNamespace(parameters=list, device=SimpleNamespace(type="cpu"))

    def __call__(self, prompts, seed):
        if self.fail_at in prompts:
            raise KeyboardInterrupt
        self.calls.append((prompts, seed))
        records = [StepRecord(i, 1000 - i, i in (0, 1, 29), milliseconds=10.0) for i in range(30)]
        trace = Trace(30, records) if self.config.cache else None
        frame_count = self.config.num_frames
        videos = [np.full((frame_count, 64, 64, 3), 9, np.uint8) for _ in prompts]
        return SimpleNamespace(videos=videos, traces=[trace] * len(prompts), seconds=6.0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a mini config with the fake pipeline; returns results, the pipeline and the output folder."""
    import opensora.pipeline

    def run_config(name: str = "sample_adacache", fail_at: str | None = None, **flags):
        flags = {"prompt": ["a", "b", "c"], "save_dir": str(tmp_path / "out"), **flags}
        config = load_config(ROOT / f"configs/mini/{name}.py", flags)
        pipe = FakePipeline(config, fail_at)
        monkeypatch.setattr(opensora.pipeline, "SamplingPipeline", SimpleNamespace(from_config=lambda config: pipe))
        weights = WeightPaths("model", "vae", "text")
        results = []
        try:
            for result in sampling_run.sample_all(config, read_prompts(config), weights):
                results.append(result)
        except KeyboardInterrupt:
            pass
        return results, pipe, tmp_path / "out"

    return run_config


def test_a_cached_video_comes_with_its_trace_and_picture(run):
    results, _, folder = run(prompt=["a red circle"], seed=5)
    assert sorted(path.name for path in folder.iterdir()) == [
        "sample_0000.json",
        "sample_0000.mp4",
        "sample_0000.trace.png",
    ]
    frames, fps = read_video(folder / "sample_0000.mp4")
    assert (frames.shape, fps) == ((17, 64, 64, 3), 8)
    record = json.loads((folder / "sample_0000.json").read_text())
    assert record["computed_steps"] == [0, 1, 29]
    metadata = record["metadata"]
    assert (metadata["prompt"], metadata["seed"], metadata["video"]) == ("a red circle", 5, "sample_0000.mp4")
    assert metadata["config"]["scheduler"]["num_sampling_steps"] == 30
    assert metadata["config"]["cache"]["metric"] == "t-attn"
    assert metadata["config"]["model"]["from_pretrained"] == "assets/opensora-mini/transformer"
    assert "python" in metadata["versions"] and "torch" in metadata["versions"]
    assert Trace.load(folder / "sample_0000.json").num_computed == 3
    assert results[0].summary_row()[:3] == ("sample_0000.mp4", 3, 30)


def test_the_baseline_computes_all_steps_and_has_no_picture(run):
    results, _, folder = run("sample", prompt=["a"])
    assert sorted(path.name for path in folder.iterdir()) == ["sample_0000.json", "sample_0000.mp4"]
    assert json.loads((folder / "sample_0000.json").read_text())["metadata"]["prompt"] == "a"
    assert results[0].summary_row() == ("sample_0000.mp4", 30, 30, 6.0, None, None)
    assert "30/30" in sampling_run.results_table(results)


def test_seed_and_name_follow_the_prompt_not_the_batch(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a\n\nb\nc\nd\n")
    flags = {"prompt": None, "prompt_path": str(tmp_path / "prompts.txt"), "seed": 100}
    _, one_by_one, _ = run(**flags)
    assert one_by_one.calls == [(["a"], [100]), (["b"], [101]), (["c"], [102]), (["d"], [103])]
    results, batched, _ = run(**flags, batch_size=2, start_index=1)
    assert batched.calls == [(["b", "c"], [101, 102]), (["d"], [103])]
    assert [result.video.name for result in results] == ["sample_0001.mp4", "sample_0002.mp4", "sample_0003.mp4"]
    assert [result.seconds for result in results] == [3.0, 3.0, 6.0]


def test_files_named_by_prompt_never_overwrite_each_other(run):
    long = "x" * 60
    results, _, folder = run(prompt=[f"{long} one", f"{long} two", "a/b. c"], prompt_as_path=True)
    names = [result.video.name for result in results]
    assert len(set(names)) == 3 and names[2] == "a_b. c.mp4"
    assert all(result.video.parent == folder for result in results)


def test_an_interrupt_keeps_what_is_finished(run):
    results, _, folder = run(fail_at="b")
    assert [result.prompt.text for result in results] == ["a"]
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".mp4", ".png"]


def test_exact_frames_are_kept_when_asked_for(run):
    _, _, folder = run(prompt=["a"], save_frames=True)
    assert np.load(folder / "sample_0000.frames.npz")["frames"].shape == (17, 64, 64, 3)


def test_an_image_and_the_picture_of_its_trace_have_different_names(run):
    results, _, folder = run(prompt=["a"], num_frames="1")
    assert results[0].video.name == "sample_0000.png"
    assert sorted(path.name for path in folder.iterdir()) == [
        "sample_0000.json", "sample_0000.png", "sample_0000.trace.png",
    ]  # fmt: skip


def test_a_dated_folder_lies_inside_the_output_folder(run):
    results, _, folder = run(prompt=["a", "b"], logdate_dir=True)
    parents = {result.video.parent for result in results}
    assert len(parents) == 1 and parents.pop().parent == folder


def test_segment_markers_and_empty_settings_are_no_part_of_the_text(run):
    _, pipe, _ = run(prompt=["|0| a cat", "a dog {}"])
    assert [prompts for prompts, _ in pipe.calls] == [["a cat"], ["a dog"]]


def test_everything_the_config_holds_is_in_the_record(run):
    results, pipe, folder = run(prompt=["a"])
    record = json.loads((folder / "sample_0000.json").read_text())
    assert set(record["metadata"]["config"]) == {field.name for field in dataclasses.fields(pipe.config)}
