"""A small calibration of the bundled model, and what runs make of it."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import opensora.pipeline
from adacache.calibration.calibration import Calibration
from adacache.calibration.plan import CalibrationPlan, Clip
from adacache.calibration.quality import psnr
from adacache.calibration.runner import Runner
from adacache.policies.multistep import MultistepConfig
from adacache.policies.static import StaticScheduleConfig
from adacache.trace import StepRecord, Trace
from opensora.cli.calibrate import PipelineClips, calibrate_sampler
from opensora.cli.identity import config_hash
from opensora.config.loading import load_config
from opensora.config.target import timesteps_of
from opensora.errors import ConfigError
from opensora.pipeline import SamplingPipeline
from opensora.weights import fingerprint
from support import small_model

ROOT = Path(__file__).resolve().parents[4]
MINI = ROOT / small_model.SAMPLE
FIT = (Clip("a still red circle on a navy background", 1),)
HELD_OUT = (Clip("a green star moving fast to the right", 2), Clip("a yellow square on a gray background", 3))
MEASURED = [4, 5, 6, 7, 8]  # of 10 steps


@dataclass(frozen=True)
class Calibrated:
    """A calibration, the plan it was made by, what was reported meanwhile, and the file it was saved to."""

    calibration: Calibration
    plan: CalibrationPlan
    finished: list[int]
    file: Path


@pytest.fixture(scope="module")
def made(pipe, tmp_path_factory) -> Calibrated:
    plan = CalibrationPlan(FIT, HELD_OUT, candidates=2, batch_size=2)
    finished: list[int] = []
    calibration = calibrate_sampler(pipe, plan, finished.append)
    file = tmp_path_factory.mktemp("calibration") / "calibration.json"
    calibration.save(file)
    return Calibrated(calibration, plan, finished, file)


@pytest.fixture
def load(made, options):
    """Read the mini config with the calibration and flags; options replace those of the calibration."""
    return lambda flags=None, **changed: load_config(
        MINI, {"calibration": str(made.file), **(flags or {})}, {**options, **changed}
    )


def test_the_curve_is_there(made):
    calibration = made.calibration
    assert [len(point.computed_steps) for point in calibration.measured] == MEASURED
    for point in calibration.measured:
        assert 10 < point.psnr_lowest <= point.psnr <= 80
        # Of two clips, the standard error of the mean is half of their distance, the lowest one's from the mean.
        assert point.psnr_error == pytest.approx(point.psnr - point.psnr_lowest)
    assert calibration.psnr(8) > calibration.psnr(4) + 3
    assert 0 < calibration.reused_cost < 0.5


def test_the_curve_is_what_the_schedules_really_give(made, pipe):
    runner = Runner(PipelineClips(pipe), 2, lambda clips: None)
    exact, _ = runner.frames(HELD_OUT)
    point = made.calibration.measured[1]
    config = MultistepConfig(point.computed_steps, 10, coefficients=point.coefficients)
    frames, _ = runner.frames(HELD_OUT, config)
    assert np.mean(list(map(psnr, frames, exact))) == pytest.approx(point.psnr, abs=0.1)


def test_as_many_calls_are_reported_as_the_plan_says(made):
    # One clip: every step, and 4 to 8 computed steps with 2 candidates. Two clips: every step, and 4 to 8.
    assert sum(made.finished) == made.plan.num_calls(10) == 1 * (10 + 2 * 30) + 2 * (10 + 30)


@pytest.mark.parametrize("num_steps", [2, 5, 10, 30, 100])
def test_measured_counts_leave_something_out(num_steps):
    counts = CalibrationPlan(FIT, HELD_OUT).counts(num_steps)
    assert counts == sorted(set(counts)) and all(4 <= count < num_steps for count in counts)


def test_a_calibration_that_was_stopped_goes_on(pipe, tmp_path):
    class Stopped(Exception):
        pass

    plan = CalibrationPlan(FIT, HELD_OUT[:1], candidates=1)
    checkpoint = tmp_path / "partial.json"
    finished: list[int] = []

    def stop(calls: int) -> None:
        finished.append(calls)
        if sum(finished) >= 18:  # all steps, and both counts: 6 + 4 + 5, and in the middle of what is measured
            raise Stopped

    with PipelineClips(pipe).steps(6):
        whole = calibrate_sampler(pipe, plan, print)
        with pytest.raises(Stopped):
            calibrate_sampler(pipe, plan, stop, checkpoint)
        made_with = json.loads(checkpoint.read_text())["facts"]["made_with"]
        assert made_with["config"] == config_hash(pipe.config) and len(made_with["weights"]) == 2
        rest: list[int] = []
        resumed = calibrate_sampler(pipe, plan, rest.append, checkpoint)
    assert sum(rest) == plan.num_calls(6)
    assert replace(resumed, reused_cost=0) == replace(whole, reused_cost=0)


def test_a_checkpoint_takes_no_other_files_place(made, pipe):
    before = made.file.read_bytes()
    with pytest.raises(ValueError, match=r"calibration\.json is not a checkpoint of a calibration; name another file"):
        calibrate_sampler(pipe, made.plan, print, made.file)
    assert made.file.read_bytes() == before


def test_a_text_is_encoded_once_and_the_pipeline_has_its_encoder_back(pipe, monkeypatch):
    class Asked:
        def __init__(self, encoder):
            self.encoder, self.prompts = encoder, []
            self.null = encoder.null

        def encode(self, prompts):
            self.prompts += prompts
            return self.encoder.encode(prompts)

    asked = Asked(pipe.text_encoder)
    monkeypatch.setattr(pipe, "text_encoder", asked)
    with PipelineClips(pipe).steps(5):
        calibrate_sampler(pipe, CalibrationPlan(FIT, HELD_OUT[:1], candidates=1), print)
    assert len(asked.prompts) == 2
    assert pipe.text_encoder is asked


def test_a_run_in_bfloat16_finds_its_schedule_though_models_are_told_rounded_sizes(options, tmp_path):
    half = {**options, "dtype": "bf16", "scheduler.num_sampling_steps": 5}
    pipe = SamplingPipeline.from_config(load_config(MINI, None, half))
    calibration = calibrate_sampler(pipe, CalibrationPlan(FIT, FIT, candidates=1), print)
    calibration.save(tmp_path / "half.json")
    cache = load_config(MINI, {"calibration": str(tmp_path / "half.json"), "max_steps_computed": 4}, half).cache
    assert cache.computed_steps == calibration.points[0].computed_steps
    assert len(cache.computed_steps) == 4
    assert calibration.timesteps == timesteps_of(pipe.config)


def test_the_solution_is_nearer_than_the_video_with_every_step_computed(pipe):
    plan = CalibrationPlan(FIT + HELD_OUT, HELD_OUT, aim="solution", candidates=1, batch_size=3)
    with PipelineClips(pipe).steps(6):
        finished: list[int] = []
        calibration = calibrate_sampler(pipe, plan, finished.append)
    assert calibration.aim == "solution"
    assert sum(finished) == plan.num_calls(6) == 3 * (48 + 9) + 2 * (48 + 9 + 6)
    assert calibration.psnr(5) > calibration.details["uncached_psnr"] + 1


def test_without_an_exact_solution_none_is_aimed_at(pipe, monkeypatch):
    scheduler = pipe.scheduler
    spaced = lambda *size: tuple(1000 - 10 * step for step in range(scheduler.num_sampling_steps))  # noqa: E731
    monkeypatch.setattr(scheduler, "times_of_calls", spaced)
    plan = CalibrationPlan(FIT, HELD_OUT, aim="solution")
    with PipelineClips(pipe).steps(7), pytest.raises(ConfigError, match="56 steps do not include those of 7"):
        calibrate_sampler(pipe, plan, print)


def test_a_run_of_few_steps_is_refused(pipe):
    with PipelineClips(pipe).steps(4), pytest.raises(ConfigError, match="4 steps is too short to be calibrated"):
        calibrate_sampler(pipe, CalibrationPlan(FIT, HELD_OUT), print)


def test_the_saved_file_holds_what_it_was_made_for(made, pipe):
    assert Calibration.load(made.file) == made.calibration
    assert made.calibration.conditions == {
        "model": fingerprint(f"{small_model.FOLDER}/transformer"),
        "model_name": f"{small_model.FOLDER}/transformer",
        "image_size": [32, 48],
        "num_frames": 17,
        "cfg_scale": 5.0,
        "solver": "euler",
    }
    assert made.calibration.details["fit_prompts"] == [clip.prompt for clip in FIT]
    assert set(made.calibration.details["held_out_prompts"]) == {clip.prompt for clip in HELD_OUT}
    assert made.calibration.timesteps == timesteps_of(pipe.config)


@pytest.mark.parametrize("count", MEASURED)
def test_a_run_of_the_calibrated_steps_gets_the_calibrated_schedule(made, load, count):
    cache = load({"max_steps_computed": count}).cache
    [stored] = [point for point in made.calibration.points if len(point.computed_steps) == count]
    assert cache == MultistepConfig(stored.computed_steps, 10, coefficients=stored.coefficients)


@pytest.mark.parametrize(("wanted", "count"), [(5, 5), (9, 8), (10, 10)])
def test_the_pipeline_computes_no_more_steps_than_it_may(load, wanted, count):
    config = load({"max_steps_computed": wanted})
    output = SamplingPipeline.from_config(config)(["a red circle"], progress=False)
    [trace] = output.traces
    assert trace.num_computed == count
    assert tuple(trace.computed_steps) == config.cache.computed_steps


def test_a_speedup_and_a_quality_are_turned_into_steps(made, load):
    calibration = made.calibration
    fast = load({"speedup": 1.7}).cache
    assert calibration.speedup(len(fast.computed_steps), 10) >= 1.7
    assert calibration.speedup(len(fast.computed_steps) + 1, 10) < 1.7
    wanted = calibration.psnr(6)
    good = load({"min_psnr": wanted}).cache
    assert calibration.psnr(len(good.computed_steps)) >= wanted
    assert len(good.computed_steps) <= 6


def test_how_residuals_are_kept_is_taken_over_from_the_configs_own_cache(load):
    own = {"cache": {"computed_steps": [0, 1], "cache_dtype": "fp32", "cache_device": "cpu", "schedule": "batch"}}
    outputs = load({"max_steps_computed": 6}, **own).cache
    assert len(outputs.computed_steps) == 6
    assert (outputs.cache_dtype, outputs.cache_device, outputs.schedule) == (None, "cpu", "sample")
    residuals = load({"max_steps_computed": 6, "num_sampling_steps": 12}, **own).cache
    assert (residuals.cache_dtype, residuals.cache_device, residuals.schedule) == ("fp32", "cpu", "batch")


def test_at_times_that_were_not_measured_no_figure_is_promised(load, caplog):
    caplog.set_level(logging.INFO)
    load({"max_steps_computed": 6})
    assert "dB (mean)" in caplog.text and "extrapolation" not in caplog.text
    caplog.clear()
    load({"max_steps_computed": 6}, **{"scheduler.use_timestep_transform": False})
    assert "dB (mean)" not in caplog.text and "at other times than this run's" in caplog.text


def error_of(load, flags=None, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_quality_out_of_reach_is_refused_with_the_best_there_is(made, load):
    best = max(made.calibration.measured, key=lambda point: point.psnr)
    message = error_of(load, {"min_psnr": best.psnr + 1})
    assert message.startswith(f"command line: min_psnr {best.psnr + 1:g} dB cannot be promised")
    assert f"up to {best.psnr:.1f} dB, with {len(best.computed_steps)} computed steps" in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"image_size": [64, 64]}, "image size (height, width) [32, 48], but this run has [64, 64]"),
        ({"num_frames": 34}, "number of frames 17, but this run has 34"),
        ({"cfg_scale": 4}, "guidance scale 5.0, but this run has 4.0"),
    ],
)
def test_a_run_under_other_conditions_is_refused(made, load, flags, words):
    message = error_of(load, {"speedup": 2, **flags})
    assert f"calibration {made.file} does not fit: it was made for {words}" in message
    assert "run 'python scripts/calibrate.py' for this setting" in message


def test_without_a_target_a_calibration_asks_for_nothing(load):
    assert load({"cfg_scale": 4}).cache is None
    assert load(calibration="nowhere.json").cache is None


def test_without_a_calibration_a_target_names_the_command_that_makes_one(options):
    with pytest.raises(ConfigError, match=f"speedup needs a calibration.*python scripts/calibrate.py {MINI}"):
        load_config(MINI, {"speedup": 2}, {**options, "calibration": None})


def test_files_that_are_no_calibration_are_named(load, tmp_path):
    assert "there is no file nowhere.json" in error_of(load, {"calibration": "nowhere.json", "speedup": 2})
    assert f"cannot read {tmp_path}" in error_of(load, {"calibration": str(tmp_path), "speedup": 2})
    (tmp_path / "other.json").write_text('{"format": 1}')
    message = error_of(load, {"calibration": str(tmp_path / "other.json"), "speedup": 2})
    assert "other.json holds no calibration (it lacks conditions" in message


def test_a_target_and_a_replay_exclude_each_other(load, tmp_path):
    with pytest.raises(ConfigError, match="command line: .* cannot be combined"):
        load({"speedup": 2, "replay": "trace.json"})
    with pytest.raises(ConfigError, match="command line: .* cannot be combined"):
        load({"speedup": 2, "max_steps_computed": 3})
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = {str(MINI)!r}\nspeedup = 2.0\nmin_psnr = 20\n")
    with pytest.raises(ConfigError, match="config.py: speedup and min_psnr cannot be combined"):
        load_config(config)
    trace = Trace(30, [StepRecord(step, None, step == 0) for step in range(30)])
    trace.save(tmp_path / "trace.json")
    config.write_text(f"_base_ = {str(MINI)!r}\nspeedup = 2.0\nreplay = {str(tmp_path / 'trace.json')!r}\n")
    with pytest.raises(ConfigError, match="config.py: replay and speedup cannot be combined"):
        load_config(config)


@pytest.fixture
def in_file(made, tmp_path):
    """Write a config file with the mini one as its base and more entries."""

    def write(text: str) -> Path:
        path = tmp_path / "config.py"
        size = "image_size = (32, 48)\nscheduler = dict(num_sampling_steps=10)\n"
        path.write_text(f"_base_ = {str(MINI)!r}\n{size}calibration = {str(made.file)!r}\n{text}\n")
        return path

    return write


def test_a_target_on_the_command_line_takes_the_place_of_the_files(in_file):
    path = in_file("max_steps_computed = 8")
    assert len(load_config(path).cache.computed_steps) == 8
    for flags, options in (({"speedup": 1.7}, {}), ({}, {"speedup": 1.7})):
        config = load_config(path, flags, options)
        assert (config.speedup, config.max_steps_computed) == (1.7, None)
        assert len(config.cache.computed_steps) < 8
    assert len(load_config(path, {"max_steps_computed": 5}).cache.computed_steps) == 5
    assert load_config(path, None, {"max_steps_computed": None}).cache is None


def test_a_replay_on_the_command_line_takes_the_place_of_the_files_target(in_file, pipe, tmp_path):
    runner = Runner(PipelineClips(pipe), 1, lambda clips: None)
    _, traces = runner.frames(FIT, StaticScheduleConfig((0, 3, 9)))
    traces[0].save(tmp_path / "trace.json")
    config = load_config(in_file("max_steps_computed = 8"), {"replay": str(tmp_path / "trace.json")})
    assert config.cache.computed_steps == (0, 3, 9)
    replaying = in_file(f"replay = {str(tmp_path / 'trace.json')!r}")
    assert load_config(replaying).cache.computed_steps == (0, 3, 9)
    assert len(load_config(replaying, {"max_steps_computed": 6}).cache.computed_steps) == 6


def test_a_calibration_is_found_beside_the_config_that_names_it(made, in_file, tmp_path, monkeypatch):
    shutil.copy(made.file, tmp_path / "beside.json")
    monkeypatch.chdir("/")
    config = load_config(in_file("calibration = 'beside.json'\nmax_steps_computed = 7"))
    assert len(config.cache.computed_steps) == 7


@pytest.fixture
def no_models(monkeypatch) -> None:
    """Fails where a model is built."""

    def refuse(*arguments, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(opensora.pipeline, "build_module", refuse)


@pytest.fixture
def copied(tmp_path) -> Path:
    """A copy of the transformer."""
    return shutil.copytree(ROOT / small_model.FOLDER / "transformer", tmp_path / "copied")


def change_last_weight(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def test_other_weights_are_refused_before_anything_is_loaded(made, load, copied, no_models):
    change_last_weight(copied)
    config = load({"max_steps_computed": 5, "ckpt_path": str(copied)})  # weights are looked at when they are loaded
    with pytest.raises(ConfigError) as caught:
        SamplingPipeline.from_config(config)
    assert f"calibration {made.file} was made for {small_model.FOLDER}/transformer" in str(caught.value)
    assert f"with other weights than those in {copied}; run 'python scripts/calibrate.py'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_copy_of_the_weights_is_as_good_and_without_a_target_any_are(load, copied, no_models):
    with pytest.raises(AssertionError, match="a model was loaded"):
        SamplingPipeline.from_config(load({"max_steps_computed": 5, "ckpt_path": str(copied)}))
    change_last_weight(copied)
    with pytest.raises(AssertionError, match="a model was loaded"):
        SamplingPipeline.from_config(load({"ckpt_path": str(copied)}))


def test_a_calibration_that_went_away_is_named_when_models_are_loaded(made, load, tmp_path, no_models):
    copy = tmp_path / "copy.json"
    shutil.copy(made.file, copy)
    config = load({"max_steps_computed": 5, "calibration": str(copy)})
    copy.unlink()
    with pytest.raises(ConfigError, match=r"there is no file .*copy\.json"):
        SamplingPipeline.from_config(config)
