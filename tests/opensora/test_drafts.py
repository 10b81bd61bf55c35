"""Draft, then final: seeds, caches, files, and the two commands on the mini model."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from adacache import AdaCacheConfig, Codebook
from adacache.calibration.quality import psnr
from adacache.policies.static import StaticScheduleConfig
from opensora.cli.drafts import final_command, write_overview
from opensora.cli.plan import Result, Sample, seeded_samples
from opensora.config.loading import load_config
from opensora.config.schema import SampleConfig
from opensora.datasets.video_io import read_video, write_video
from opensora.errors import ConfigError
from opensora.prompts.run_prompts import read_prompts
from scripts import inference
from support import small_model

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / small_model.ADACACHE


def load(overrides: dict | None = None, config: Path = MINI, **cfg_options) -> SampleConfig:
    return load_config(config, {"prompt": ["a", "b"], "seed": 100, **(overrides or {})}, cfg_options)


def samples(**overrides) -> list[tuple[int, int]]:
    """(prompt index, seed) of everything a run samples."""
    config = load(overrides)
    return [(sample.index, sample.seed) for sample in seeded_samples(config, read_prompts(config))]


def error_of(*arguments, **cfg_options) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*arguments, **cfg_options)
    return str(caught.value)


def test_without_a_mode_every_prompt_has_its_usual_seed():
    assert samples() == [(0, 100), (1, 101)]


def test_drafts_count_up_from_the_usual_seed():
    assert samples(draft=3) == [(0, 100), (0, 101), (0, 102), (1, 101), (1, 102), (1, 103)]
    assert samples(draft=2, start_index=5) == [(5, 105), (5, 106), (6, 106), (6, 107)]


def test_final_seeds_belong_to_every_prompt_or_to_one():
    assert samples(final=["101"]) == [(0, 101), (1, 101)]
    assert samples(final=["1:103", "0:102", "1:101"]) == [(0, 102), (1, 103), (1, 101)]
    assert samples(final=["1:103", "1:103"]) == [(1, 103)]
    assert samples(final=["7", "1:8", "7"]) == [(0, 7), (1, 7), (1, 8)]


def test_a_final_seed_for_a_prompt_the_run_has_not_is_refused():
    with pytest.raises(ConfigError, match="final 2:7: the run has no prompt 2, only 0 to 1"):
        samples(final=["2:7"])


def test_final_seeds_of_a_config_may_be_numbers():
    assert load(final=[7, "1:8"]).final == ("7", "1:8")
    assert load(final=7).final == ("7",)


@pytest.mark.parametrize("text", ["x", "1.5", "-1", "1:", ":1", "a:1", "1:2:3", "", "²"])
def test_seeds_that_cannot_be_read_are_refused(text):
    assert error_of({"final": [text]}) == (
        f"command line: final takes seeds such as 1024, or 2:1024 for prompt 2 only, got '{text}'"
    )


@pytest.mark.parametrize("final", [[], [True], {"a": 1}])
def test_a_final_of_another_kind_is_refused(final):
    assert error_of(final=final).startswith("command line: final ")


def test_modes_exclude_each_other_on_the_command_line_and_in_a_file(tmp_path):
    for name, value in (("final", ["7"]), ("replay", "trace.json"), ("num_sample", 2)):
        message = error_of({"draft": 2, name: value})
        assert "draft" in message and name in message and message.endswith(" cannot be combined; give only one of them")
    path = tmp_path / "both.py"
    path.write_text(f"_base_ = {str(MINI)!r}\ndraft = 2\nfinal = ['7']\n")
    assert error_of(config=path) == f"{path}: draft and final cannot be combined; give only one of them"


def test_the_command_line_chooses_the_mode_over_the_file(tmp_path):
    path = tmp_path / "drafts.py"
    path.write_text(f"_base_ = {str(MINI)!r}\ndraft = 2\nnum_sample = 1\n")
    assert (load(config=path).draft, load({"final": ["7"]}, path).draft) == (2, None)


def test_a_calibration_gives_drafts_few_steps_and_finals_many():
    draft, final = load({"draft": 2}).cache, load({"final": ["7"]}).cache
    assert isinstance(draft, StaticScheduleConfig) and len(draft.computed_steps) == 8
    assert len(final.computed_steps) == 20
    assert draft.metric is final.metric is None
    assert len(load({"draft": 2, "num_sampling_steps": 5}).cache.computed_steps) == 2  # no fewer


def test_a_target_on_the_command_line_replaces_the_strength_and_one_in_the_file_does_not():
    calibrated = ROOT / small_model.CALIBRATED
    assert len(load({"draft": 2}, calibrated).cache.computed_steps) == 8
    cache = load({"draft": 2, "max_steps_computed": 5}, calibrated).cache
    assert len(cache.computed_steps) == 5
    assert len(load({"final": ["7"], "max_steps_computed": 25}, calibrated).cache.computed_steps) == 24


def test_at_a_size_that_was_not_calibrated_the_official_codebooks_decide():
    assert load({"draft": 2, "num_frames": "34"}).cache == AdaCacheConfig("fast30", metric_blocks=(2,))
    assert load({"final": ["7"], "num_frames": "1"}).cache.codebook == Codebook.from_value("slow30")
    assert "does not fit" in error_of({"draft": 2, "num_frames": "34", "speedup": 2.0})


def test_without_a_calibration_the_official_codebooks_decide(caplog):
    caplog.set_level(logging.INFO, "opensora")
    draft = load({"draft": 2}, calibration=None, **{"cache.cache_dtype": "bf16", "cache.metric": "s-attn"}).cache
    assert draft == AdaCacheConfig("fast30", "s-attn", (2,), cache_dtype="bf16")
    assert "official codebook fast30" in caplog.text and "scripts/calibrate.py" in caplog.text
    final = load({"final": ["7"]}, ROOT / small_model.SAMPLE, calibration=None).cache
    assert final == AdaCacheConfig("slow30", metric_blocks=(2,))  # the middle one of 4
    assert final.codebook == Codebook.from_value("slow30")
    assert "was tuned for" not in caplog.text
    load({"draft": 2, "num_sampling_steps": 50}, calibration=None)
    assert caplog.text.count("tuned for 30 sampling steps, but this run has 50") == 1


def result(folder: Path, index: int, seed: int, frames: int = 9) -> Sample:
    video = write_video(folder / f"{index}_{seed}.mp4", np.full((frames, 32, 64, 3), 90, np.uint8), 8)
    return Sample(index, "a red star", seed, None, result=Result(video, 1.0, 4, 2))


def test_drafts_are_listed_as_they_were_planned(tmp_path):
    write_overview([result(tmp_path, *draft) for draft in ((0, 4), (0, 5), (1, 3))])
    listed = json.loads((tmp_path / "drafts.json").read_text())["drafts"]
    assert listed[0] == {
        "prompt_index": 0, "prompt": "a red star", "seed": 4, "file": "0_4.mp4", "num_computed": 2, "num_steps": 4,
    }  # fmt: skip
    assert [draft["seed"] for draft in listed] == [4, 5, 3]


def test_images_stand_side_by_side(tmp_path):
    sizes = {}
    for frames in (1, 9):
        (sheet,) = write_overview([result(tmp_path / f"{frames}", 0, seed, frames) for seed in range(4)])
        sizes[frames] = Image.open(sheet).size
    assert sizes[1][0] > 4 * 144 and sizes[1][1] < sizes[9][1] / 2


def test_the_final_command_keeps_all_but_the_drafts_own_flags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drafts = [result(tmp_path, 0, 5), result(tmp_path, 0, 6)]
    arguments = ["c.py", "--draft", "2", "--prompt", "a cat's star", "--speedup=4", "--seed", "5"]
    command = final_command(arguments, drafts)
    assert shlex.split(command) == [
        "bash", str(ROOT / "run_sample_video.sh"), "c.py", "--prompt", "a cat's star", "--seed", "5", "--final", "5",
    ]  # fmt: skip
    monkeypatch.chdir(ROOT)
    command = final_command(["--draft=2"], [*drafts, result(tmp_path, 3, 9)])
    assert command == "bash run_sample_video.sh --final 0:5 3:9"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["draft=2", "seed=5"], " --cfg-options seed=5"),
        (["seed=5", "speedup=4", "min_psnr=20", "max_steps_computed=8"], " --cfg-options seed=5"),
        (["draft=2"], ""),
    ],
)
def test_the_final_command_leaves_out_the_drafts_own_options(tmp_path, monkeypatch, options, kept):
    monkeypatch.chdir(ROOT)
    arguments = ["--cfg-options", *options, "--prompt", "draft=2"]
    command = final_command(arguments, [result(tmp_path, 0, 6)])
    assert command == f"bash run_sample_video.sh{kept} --prompt draft=2 --final 6"


@pytest.mark.parametrize("overrides", [{"seed": 2**32 - 1}, {"final": [str(2**32)]}, {"seed": 2**32 - 2, "draft": 2}])
def test_seeds_that_would_repeat_the_noise_of_others_are_refused(overrides):
    with pytest.raises(ConfigError, match="is too large; the largest one is 4294967295"):
        samples(**overrides)


@pytest.mark.parametrize("mode", [{"draft": 2}, {"final": ["5"]}])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_too_short_to_leave_out_a_step_has_no_cache(mode, steps):
    assert load({**mode, "num_sampling_steps": steps}).cache is None


def test_a_cache_that_is_replaced_has_to_fit_no_run(caplog):
    caplog.set_level(logging.INFO)
    load({"speedup": 2.0, "num_sampling_steps": 20})
    assert "codebook" not in caplog.text


@pytest.mark.parametrize(("computed", "known"), [(2, False), (6, True), (24, True), (29, True), (30, False)])
def test_no_quality_is_named_that_was_not_measured(caplog, computed, known):
    caplog.set_level(logging.INFO)
    load({"max_steps_computed": computed})
    assert ("dB (mean)" in caplog.text) is known


def test_no_quality_is_named_for_a_run_of_another_length(caplog):
    caplog.set_level(logging.INFO)
    load({"speedup": 2.0, "num_sampling_steps": 20})
    assert "9 of 20 steps are computed" in caplog.text
    assert "dB" not in caplog.text


def test_a_draft_by_a_codebook_cannot_measure_in_a_block_that_the_model_lacks():
    with pytest.raises(ConfigError, match="command line: cache: metric_blocks .* do not fit a model of 4 blocks"):
        load({"draft": 2}, **{"cache.metric_blocks": [9], "calibration": None})


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> SimpleNamespace:
    """Two drafts of a prompt, and what the printed command makes of the first one; the folder and the output."""
    folder = tmp_path_factory.mktemp("samples")
    common = ["--prompt", "a green star on a drifting teal striped background", "--save-frames", "--verbose", "0"]
    arguments = [str(MINI), *common, "--seed", "40", "--save-dir", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *texts, **_: printed.extend(texts))
        assert inference.main([*arguments, "--draft", "2", "--batch-size", "2"]) == 0
        final = shlex.split(printed[-1])
        assert inference.main(final[2:]) == 0
        seed = final[-1]
        exact = [str(ROOT / small_model.SAMPLE), *common, "--seed", seed, "--save-dir", str(folder)]
        assert inference.main(exact) == 0
    return SimpleNamespace(folder=folder, printed=printed, seed=int(seed))


def test_a_final_video_is_closer_to_the_uncached_one_than_its_draft(commands):
    name = f"sample_0000_seed{commands.seed}"
    draft, final, exact = (
        np.load(commands.folder / f"{path}.frames.npz")["frames"]
        for path in (f"drafts/{name}", f"final/{name}", "sample_0000")
    )
    assert psnr(draft, exact) > 20
    assert psnr(final, exact) > psnr(draft, exact) + 5


def test_drafts_leave_a_list_a_sheet_and_a_command(commands):
    drafts = commands.folder / "drafts"
    listed = json.loads((drafts / "drafts.json").read_text())["drafts"]
    assert [draft["seed"] for draft in listed] == [40, 41]
    assert commands.seed == 40
    for draft in listed:
        record = json.loads((drafts / draft["file"]).with_suffix(".json").read_text())
        assert record["metadata"]["seed"] == draft["seed"]
        assert (len(record["computed_steps"]), draft["num_computed"], draft["num_steps"]) == (8, 8, 30)
        assert read_video(drafts / draft["file"])[0].shape == (17, 64, 64, 3)
    sheet = np.asarray(Image.open(drafts / "drafts.png").convert("RGB"))
    # Six frames of 144 pixels beside each other, twice, with margins, a heading and labels.
    assert 6 * 144 < sheet.shape[1] < 6 * 144 + 80
    assert 2 * 144 + 60 < sheet.shape[0] < 2 * 144 + 140
    assert str(drafts / "drafts.png") in "".join(commands.printed)


def test_a_final_run_has_its_own_folder(commands):
    (video,) = (commands.folder / "final").glob("*.mp4")
    assert video.name == f"sample_0000_seed{commands.seed}.mp4"
    record = json.loads(video.with_suffix(".json").read_text())
    assert len(record["computed_steps"]) == 20
    assert (record["metadata"]["seed"], record["metadata"]["config"]["final"]) == (
        commands.seed,
        [f"{commands.seed}"],
    )


def test_a_calibration_that_cannot_be_read_names_the_way_without_one():
    with pytest.raises(ConfigError, match="there is no file nowhere.json.*calibration=None, --draft uses an"):
        load_config(small_model.SAMPLE, {"draft": 2}, {"calibration": "nowhere.json"})
    with pytest.raises(ConfigError, match="max_steps_computed is 99") as told:
        load_config(small_model.SAMPLE, {"draft": 2, "max_steps_computed": 99})
    assert "calibration=None" not in str(told.value)
