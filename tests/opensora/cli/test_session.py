"""The run loop: batches, seeds, file names, what lies beside each video, and what the next run does again."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from adacache.trace import Trace
from opensora.cli import command, worker
from opensora.cli import session as sessions
from opensora.cli.ledger import Ledger
from opensora.cli.plan import Result
from opensora.cli.records import results_table
from opensora.cli.session import Session
from opensora.datasets.video_io import read_video
from opensora.errors import ConfigError
from support import small_model

ROOT = Path(__file__).resolve().parents[3]
SHEETS = {"prompt": ["a"], "draft": 2, "contact_sheet": True}


def test_a_cached_video_comes_with_its_trace_and_picture(run):
    done = run("sample_adacache", prompt=["a red circle"], seed=5)
    results, folder = done.results, done.folder
    assert done.names() == [
        "manifest.json",
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
    assert metadata["config"]["model"]["from_pretrained"] == f"{small_model.FOLDER}/transformer"
    assert "python" in metadata["versions"] and "torch" in metadata["versions"]
    assert Trace.load(folder / "sample_0000.json").num_computed == 3
    assert (results[0].video.name, results[0].num_computed, results[0].num_steps) == ("sample_0000.mp4", 3, 30)


def test_the_baseline_computes_all_steps_and_has_no_picture(run):
    done = run("sample", prompt=["a"])
    folder = done.folder
    assert done.names() == ["manifest.json", "sample_0000.json", "sample_0000.mp4"]
    assert json.loads((folder / "sample_0000.json").read_text())["metadata"]["prompt"] == "a"
    assert done.results == [Result(folder / "sample_0000.mp4", 6.0, 30, 30)]
    assert "30/30" in results_table(done.samples)


def test_seed_and_name_follow_the_prompt_not_the_batch(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a\n\nb\nc\nd\n")
    flags = {"prompt": None, "prompt_path": str(tmp_path / "prompts.txt"), "seed": 100}
    assert run(**flags).calls == [(["a"], [100]), (["b"], [101]), (["c"], [102]), (["d"], [103])]
    batched = run(**flags, batch_size=2, start_index=1, resample=True)
    assert batched.calls == [(["b", "c"], [101, 102]), (["d"], [103])]
    assert [result.video.name for result in batched.results] == [
        "sample_0001.mp4",
        "sample_0002.mp4",
        "sample_0003.mp4",
    ]
    assert [result.seconds for result in batched.results] == [3.0, 3.0, 6.0]


def test_files_named_by_prompt_never_overwrite_each_other(run):
    long = "x" * 60
    done = run(prompt=[f"{long} one", f"{long} two", "a/b. c"], prompt_as_path=True)
    names = [result.video.name for result in done.results]
    assert len(set(names)) == 3 and names[2] == "a_b. c.mp4"
    assert all(result.video.parent == done.folder for result in done.results)


def test_an_interrupt_keeps_what_is_finished_and_the_next_run_goes_on(run):
    first = run("sample_adacache", errors={"b": KeyboardInterrupt()})
    assert isinstance(first.error, KeyboardInterrupt)
    assert first.statuses() == {"sample_0000": "done", "sample_0001": "waiting", "sample_0002": "waiting"}
    second = run("sample_adacache")
    assert [prompts for prompts, _ in second.calls] == [["b"], ["c"]]
    assert [result.video.name for result in second.results] == [f"sample_000{i}.mp4" for i in range(3)]
    assert second.results[0].num_computed == 3 and second.results[0].seconds == 6.0
    assert [entry["outcome"] for entry in second.manifest()["runs"]] == ["interrupted", "done"]


def test_nothing_is_loaded_where_everything_is_there(run):
    run()
    again = run()
    assert again.calls == [] and len(again.results) == 3
    assert len(again.manifest()["runs"]) == 1
    assert len(run(resample=True).calls) == 3


def test_a_batch_of_which_one_sample_is_missing_is_run_as_a_whole(run):
    first = run(batch_size=2)
    written = (first.folder / "sample_0001.mp4").stat().st_mtime_ns
    (first.folder / "sample_0000.mp4").unlink()
    second = run(batch_size=2)
    assert [prompts for prompts, _ in second.calls] == [["a", "b"]]
    assert (first.folder / "sample_0001.mp4").stat().st_mtime_ns == written


def test_files_that_are_missing_cut_short_or_newly_wanted_are_made_again(run):
    folder = run().folder
    (folder / "sample_0001.mp4").write_bytes(b"short")
    (folder / "sample_0002.json").unlink()
    assert [prompts for prompts, _ in run().calls] == [["b"], ["c"]]
    assert [prompts for prompts, _ in run(prompt=["a"], save_frames=True).calls] == [["a"]]


def test_other_settings_set_finished_videos_aside_and_back(run):
    folder = run("sample_adacache", prompt=["a"]).folder
    before = (folder / "sample_0000.json").read_bytes()
    other = run(prompt=["z"])
    assert other.calls == [(["z"], [1024])]
    [old] = (folder / "replaced").iterdir()
    assert sorted(path.name for path in old.iterdir()) == [
        "sample_0000.json", "sample_0000.mp4", "sample_0000.trace.png",
    ]  # fmt: skip
    assert (old / "sample_0000.json").read_bytes() == before


def test_files_of_nobody_are_set_aside_too(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sample_0000.mp4").write_bytes(b"precious")
    run(prompt=["a"])
    assert (tmp_path / "out/replaced/unlisted/sample_0000.mp4").read_bytes() == b"precious"


def test_a_bad_sample_fails_alone_and_stands_in_the_ledger(run):
    done = run(errors={"b": ConfigError("b is too much")}, batch_size=3)
    assert done.error is None and done.failed == {"sample_0001": "b is too much"}
    assert done.statuses() == {"sample_0000": "done", "sample_0001": "failed", "sample_0002": "done"}
    assert done.manifest()["samples"]["sample_0001"]["error"] == "b is too much"
    assert done.manifest()["runs"][-1]["outcome"] == "1 failed"
    assert [prompts for prompts, _ in done.calls] == [["a"], ["c"]]
    # The next run tries it again.
    assert [prompts for prompts, _ in run(batch_size=3).calls] == [["a", "b", "c"]]


def test_a_prompt_that_cannot_be_used_fails_without_being_sampled(run):
    done = run(prompt=["a", "", "c"])
    assert list(done.failed) == ["sample_0001"] and "prompt 1 is empty" in done.failed["sample_0001"]
    assert done.statuses() == {"sample_0000": "done", "sample_0001": "failed", "sample_0002": "done"}


def test_a_full_disk_and_a_bug_end_the_run(run, monkeypatch):
    full = run(errors={"b": OSError(errno.ENOSPC, "No space left on device")})
    assert isinstance(full.error, OSError)
    assert full.statuses()["sample_0000"] == "done" and full.statuses()["sample_0001"] == "waiting"
    assert isinstance(run(errors={"b": TypeError("bug")}).error, TypeError)


def test_without_pyav_a_video_is_refused_before_anything_is_loaded_and_an_image_is_not(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # which makes the import fail
    refused = run()
    assert isinstance(refused.error, ConfigError) and refused.calls == []
    assert "sample_0000.mp4 cannot be written without PyAV" in str(refused.error)
    assert str(refused.error).endswith("install it with pip install av")
    assert refused.names() == []
    assert list(run(num_frames="1").statuses().values()) == ["done"] * 3


def test_two_runs_do_not_write_into_one_folder(run, tmp_path):
    (tmp_path / "out").mkdir()
    ledger = Ledger(tmp_path / "out")
    with pytest.raises(ConfigError, match="another run is writing into"):
        run()
    ledger.close()
    assert len(run().results) == 3


DAMAGED = '{"format": 1, "runs": [], "samples": {"a": {"prompt": "a", "seed": 1, "index": 0, "files": {"a": 3}}}}'


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2, "runs": [], "samples": {}}', '{"format": 1}', DAMAGED])
def test_a_manifest_of_somebody_else_is_refused(run, tmp_path, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text(text)
    with pytest.raises(ConfigError, match="is not a manifest of ours"):
        run()
    assert (tmp_path / "out/manifest.json").read_text() == text


def test_leftovers_of_a_killed_run_are_removed(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.sample_0000.mp4.1a2b3c4d.tmp").write_bytes(b"half")
    assert not list(run().folder.glob(".*.tmp"))


def test_exact_frames_are_kept_when_asked_for(run):
    folder = run(prompt=["a"], save_frames=True).folder
    assert np.load(folder / "sample_0000.frames.npz")["frames"].shape == (17, 64, 64, 3)


def test_an_image_and_the_picture_of_its_trace_have_different_names(run):
    done = run("sample_adacache", prompt=["a"], num_frames="1", preview="webp")
    assert done.results[0].video.name == "sample_0000.png"
    assert done.names() == ["manifest.json", "sample_0000.json", "sample_0000.png", "sample_0000.trace.png"]
    assert run("sample_adacache", prompt=["a"], num_frames="1", preview="webp").calls == []


def test_every_loop_has_its_trace(run):
    done = run("sample_adacache", prompt=["a"], num_frames="34", loop=2)
    assert {"sample_0000.json", "sample_0000.loop1.json", "sample_0000.loop1.trace.png"} <= set(done.names())
    assert json.loads((done.folder / "sample_0000.loop1.json").read_text())["metadata"]["loop"] == 1
    assert run("sample_adacache", prompt=["a"], num_frames="34", loop=2).calls == []


def test_a_dated_folder_lies_inside_the_output_folder(run, tmp_path):
    parents = {result.video.parent for result in run(prompt=["a", "b"], logdate_dir=True).results}
    assert len(parents) == 1 and parents.pop().parent == tmp_path / "out"


def test_segment_markers_and_empty_settings_are_no_part_of_the_text(run):
    assert [prompts for prompts, _ in run(prompt=["|0| a cat", "a dog {}"]).calls] == [["a cat"], ["a dog"]]


def test_everything_the_config_holds_is_in_the_record(run):
    done = run(prompt=["a"])
    record = json.loads((done.folder / "sample_0000.json").read_text())
    assert set(record["metadata"]["config"]) == {field.name for field in dataclasses.fields(done.config)}
    entry = done.manifest()["samples"]["sample_0000"]
    assert entry["files"]["sample_0000.mp4"]["bytes"] == (done.folder / "sample_0000.mp4").stat().st_size
    assert entry["prompt"] == "a" and entry["identity"] and entry["started"] <= entry["finished"]


def test_what_decides_about_a_video_is_in_its_identity_and_nothing_else(run):
    """Where files go and how many samples go together changes nothing; a setting of sampling does."""
    run(prompt=["a"])
    assert run(prompt=["a"], batch_size=2, verbose=2).calls == []
    assert len(run(prompt=["a"], num_sampling_steps=29, name="sample").calls) == 1


def test_a_reference_that_is_gone_for_a_while_costs_no_finished_video(run, tmp_path):
    image = tmp_path / "first.png"
    Image.new("RGB", (64, 64)).save(image)
    prompts = ["a", f"b {json.dumps({'reference_path': str(image)})}"]
    first = run(prompt=prompts)
    before = (first.folder / "sample_0001.mp4").read_bytes()
    image.rename(tmp_path / "away.png")
    without = run(prompt=prompts)
    assert list(without.failed) == ["sample_0001"] and without.calls == []
    assert without.statuses()["sample_0001"] == "done" and not (first.folder / "replaced").exists()
    (tmp_path / "away.png").rename(image)
    assert run(prompt=prompts).calls == []
    assert (first.folder / "sample_0001.mp4").read_bytes() == before


def test_a_reference_that_changes_during_the_run_fails_its_sample(run, tmp_path, monkeypatch):
    image = tmp_path / "first.png"
    Image.new("RGB", (64, 64)).save(image)
    monkeypatch.setattr(worker, "sha256_of", lambda path: "another")
    done = run(prompt=[f"a {json.dumps({'reference_path': str(image)})}", "b"])
    assert list(done.failed) == ["sample_0000"] and "was changed" in done.failed["sample_0000"]
    assert done.statuses()["sample_0001"] == "done"


def test_what_is_finished_survives_an_interrupted_second_run_and_other_settings(run):
    video = (run(prompt=["a"]).folder / "sample_0000.mp4").read_bytes()
    interrupted = run(prompt=["a"], save_frames=True, errors={"a": KeyboardInterrupt()})
    assert isinstance(interrupted.error, KeyboardInterrupt)
    run(prompt=["a"], cfg_scale=3.0)
    [kept] = (interrupted.folder / "replaced").glob("*/sample_0000.mp4")
    assert kept.read_bytes() == video


def test_an_interrupted_resampling_goes_on(run):
    run()
    first = run(resample=True, errors={"b": KeyboardInterrupt()})
    assert [prompts for prompts, _ in first.calls] == [["a"]]
    second = run(resample=True, errors={"c": KeyboardInterrupt()})
    assert [prompts for prompts, _ in second.calls] == [["b"]]
    assert [prompts for prompts, _ in run(resample=True).calls] == [["c"]]
    assert len(run(resample=True).calls) == 3


def test_a_resampling_in_which_a_sample_failed_is_over(run):
    failing = {"b": ConfigError("no")}
    run(errors=failing)
    for _ in range(2):
        assert [prompts for prompts, _ in run(resample=True, errors=failing).calls] == [["a"], ["c"]]


def test_all_files_of_a_video_leave_its_place_together(run):
    folder = run(prompt=["a"], save_frames=True, preview="webp").folder
    run(prompt=["a"], preview="apng", resample=True)
    done = run(prompt=["a"], seed=5)
    assert done.names() == ["manifest.json", "replaced", "sample_0000.json", "sample_0000.mp4"]
    [old] = (folder / "replaced").iterdir()
    assert {path.suffix for path in old.iterdir()} == {".json", ".mp4", ".npz", ".png", ".webp"}


def test_a_shared_schedule_makes_the_batch_a_part_of_the_identity(run, tmp_path):
    path = tmp_path / "shared.py"
    base = str(ROOT / small_model.ADACACHE)
    path.write_text(f"_base_ = {base!r}\ncache = dict(schedule='batch')\n")
    shared = {"config": str(path), "prompt": ["a", "b"]}
    assert len(run(**shared, batch_size=2).calls) == 1
    assert run(**shared, batch_size=2).calls == []
    assert len(run(**shared, batch_size=1).calls) == 2


def test_the_table_counts_the_steps_of_all_loops(run):
    for _ in ("made", "read from its sidecar"):
        [result] = run("sample_adacache", prompt=["a"], num_frames="34", loop=2).results
        assert (result.num_computed, result.num_steps) == (6, 60)


def test_the_table_at_the_end_has_aligned_columns():
    cached = Result(Path("a_cat.mp4"), 41.23, 100, 12, 0.789)
    uncached = Result(Path("b.mp4"), 200.0, 100, 100)
    heading = "video      computed steps  seconds  estimated saving"
    assert results_table([SimpleNamespace(result=result) for result in (cached, None, uncached)]).split("\n") == [
        heading,
        "-" * len(heading),
        "a_cat.mp4          12/100     41.2               79%",
        "b.mp4             100/100    200.0                 -",
    ]


@pytest.mark.parametrize(("path", "sentence"), [("-", "run, with the same prompts through the pipe"), (None, "run")])
def test_drafts_from_a_pipe_ask_for_the_prompts_again(path, sentence, run, monkeypatch, capsys):
    drafts = run(draft=2, prompt=["a"])
    config = dataclasses.replace(drafts.config, prompt_path=path)
    session = SimpleNamespace(finished=drafts.samples, failed=[], plan=SimpleNamespace(config=config))
    session.ledger = SimpleNamespace(get=lambda stem: None)
    Session.report(session, ["drafts.py"])
    assert f"for the first ones, {sentence}\n\n" in capsys.readouterr().out


def test_a_run_does_not_move_away_what_it_is_made_from(run, tmp_path):
    first = run(prompt=["a"]).folder
    video = first / "sample_0000.mp4"
    before = video.read_bytes()
    again = run(prompt=["a"], reference_path=[str(video)], num_frames=34)
    assert isinstance(again.error, ConfigError)
    assert "sample_0000 would take its place; choose another folder with --save-dir" in str(again.error)
    assert video.read_bytes() == before and not (first / "replaced").exists()
    assert run(prompt=["a"], reference_path=[str(video)], num_frames=34, save_dir=str(tmp_path / "other")).results


def test_a_full_disk_leaves_the_closing_report(tmp_path, monkeypatch, capsys, caplog):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sessions, "write_sheets", refuse)
    monkeypatch.setattr(sessions, "write_overview", refuse)
    plan = command.prepare(small_model.SAMPLE, SHEETS | {"save_dir": str(tmp_path)}, {})
    with sessions.open_session(plan) as session:
        for sample in session.plan.samples:
            sample.result = Result(tmp_path / "a.mp4", 1.0, 30, 30)
        session.plan.samples[1].result, session.plan.samples[1].problem = None, "no such thing"
        session.report(["x"])
    shown = capsys.readouterr().out
    assert "1 of 2 samples failed" in shown and "look at them, then render" in shown and "all of them" not in shown
    assert "cannot be written" in caplog.text


def test_a_sidecar_finds_the_calibration_beside_its_config(run, tmp_path):
    shutil.copy(ROOT / small_model.FOLDER / "calibration.json", tmp_path)
    config = tmp_path / "own.py"
    config.write_text(f"_base_ = {str(ROOT / small_model.SAMPLE)!r}\ncalibration = 'calibration.json'\n")
    made = run(config=str(config), prompt=["a"], max_steps_computed=10).folder / "sample_0000.json"
    again = command.prepare("", {"from_sidecar": str(made), "max_steps_computed": 6}, {})
    assert len(again.config.cache.computed_steps) == 6


@pytest.mark.parametrize(
    ("flags", "options", "words"),
    [
        ({"solver": "adams"}, {}, "it was made for solver euler, but this run has adams"),
        ({"num_frames": "34"}, {}, "it was made for number of frames"),
        ({"cfg_scale": 7.0}, {}, "it was made for guidance scale"),
        ({}, {"image_size": (64, 96)}, "it was made for image size"),
        ({"ckpt_path": "elsewhere"}, {}, "but this run has elsewhere"),
    ],
    ids=str,
)
def test_a_calibrated_sidecar_is_refused_in_another_setting(run, flags, options, words):
    made = run(config=small_model.CALIBRATED, prompt=["a"]).folder / "sample_0000.json"
    with pytest.raises(ConfigError, match=f"sample_0000.json has a calibrated cache, which does not fit: .*{words}"):
        command.prepare("", {"from_sidecar": str(made), **flags}, options)
    if "ckpt_path" not in flags:
        plan = command.prepare("", {"from_sidecar": str(made), **flags}, {**options, "cache": None})
        assert plan.config.cache is None


def test_a_calibrated_sidecar_knows_its_weights_in_another_place(run, tmp_path):
    made = run(config=small_model.CALIBRATED, prompt=["a"]).folder / "sample_0000.json"
    moved = shutil.copytree(ROOT / small_model.FOLDER / "transformer", tmp_path / "moved")
    command.prepare("", {"from_sidecar": str(made), "ckpt_path": str(moved)}, {})


def test_samples_of_one_schedule_are_not_made_alone(run, tmp_path):
    """Alone, their schedule would be another, and the ledger would say otherwise."""
    config = tmp_path / "own.py"
    config.write_text(f"_base_ = {str(ROOT / small_model.ADACACHE)!r}\ncache = dict(schedule='batch')\n")
    done = run(config=str(config), batch_size=3, errors={"b": RuntimeError("can't allocate memory")})
    assert len(done.failed) == 3 and not done.calls
    assert all("(its batch shares one schedule)" in problem for problem in done.failed.values())


def test_a_trace_in_the_home_folder_is_not_moved_away_either(run, tmp_path, monkeypatch):
    trace = run("sample_adacache", prompt=["a"]).folder / "sample_0000.json"
    monkeypatch.setenv("HOME", str(trace.parent))
    before = trace.read_bytes()
    again = run(prompt=["a"], replay=f"~/{trace.name}", seed=5)
    assert isinstance(again.error, ConfigError) and "would take its place" in str(again.error)
    assert trace.read_bytes() == before
    done = run(prompt=["a"], replay=f"~/{trace.name}", save_dir=str(tmp_path / "other"))
    assert done.config.cache.computed_steps == (0, 1, 29)
