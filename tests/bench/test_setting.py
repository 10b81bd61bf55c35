"""Which prompts are measured and which are tuned on, and which sampling configs do."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bench.plan import plan_from_dict
from bench.setting import bench_clips, bench_prompts, load_sample_config, setting_of, tuning_clips
from opensora.errors import ConfigError
from support import small_model


def test_seeds_come_one_after_the_other_and_no_two_clips_share_one():
    clips = bench_clips(["a", "b", "c"], 2)
    assert [(clip.prompt, clip.draw) for clip in clips] == [(p, d) for d in (0, 1) for p in "abc"]
    assert [clip.seed for clip in clips] == [1000, 1001, 1002, 2000, 2001, 2002]
    assert not {clip.seed for clip in clips} & {clip.seed for clip in tuning_clips(["d"], 16)}


def test_any_sampling_config_works_its_cache_is_left_aside(plan):
    for sample in (small_model.CALIBRATED, small_model.ADACACHE):
        config = load_sample_config(dataclasses.replace(plan, sample=sample))
        assert (config.cache, config.speedup) == (None, None)
        assert config.calibration is not None
    options = {"cache.metric_blocks": (1,), "speedup": 2.0, "scheduler.cfg_scale": 3.0}
    config = load_sample_config(plan.with_changes(sample_options=options))
    assert (config.cache, config.speedup, config.scheduler.cfg_scale) == (None, None, 3.0)


def test_budgets_must_be_less_than_the_steps(plan):
    with pytest.raises(ConfigError, match="30 computed steps leave nothing to reuse"):
        load_sample_config(plan.with_changes(budgets=[10, 30]))


def test_another_sampling_config_brings_its_own_prompts(plan):
    changed = plan.with_changes(sample="configs/sample_480p.py", num_prompts=32)
    prompts, tuning = bench_prompts(changed, load_sample_config(changed))
    assert (len(prompts), len(tuning)) == (6, 2)  # the gallery has 8
    assert not set(prompts) & set(tuning)


def test_prompts_are_never_tuned_on(plan, tmp_path, entries):
    path = tmp_path / "prompts.txt"
    path.write_text("a\nb\nc\na\n")
    config = load_sample_config(plan)
    both = plan_from_dict({**entries, "prompts": str(path), "tuning_prompts": str(path)})
    assert bench_prompts(both, config) == (["a", "b"], ["c"])
    with pytest.raises(ConfigError, match="num_prompts"):
        bench_prompts(dataclasses.replace(both, num_prompts=4), config)
    with pytest.raises(ConfigError, match="no prompt to tune on"):
        tuning_clips(bench_prompts(dataclasses.replace(both, num_prompts=3), config)[1], 4)
    with pytest.raises(ConfigError, match="there is no file 'nowhere.txt'"):
        bench_prompts(dataclasses.replace(plan, prompts="nowhere.txt"), config)


def test_fewer_prompts_than_were_asked_for_are_said(plan, caplog):
    changed = plan.with_changes(sample="configs/sample_480p.py", num_prompts=32)
    bench_prompts(changed, load_sample_config(changed))
    assert "configs/sample_480p.py has prompts for 6 to measure" in caplog.text


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"compat": True}, "compat"),
        ({"text_encoder.quantize": "int8"}, "text encoder"),
        ({"vae.tiling": True}, "autoencoder"),
        ({"dtype": "bf16"}, "dtype"),
        ({"multi_resolution": None, "scheduler.use_timestep_transform": False}, "multi resolution"),
    ],
    ids=str,
)
def test_results_depend_on_every_option_that_videos_do(plan, option, name):
    machine, weights = (
        dict.fromkeys(("cpu", "threads", "gpu", "torch")),
        {"model": "a", "vae": "b", "text_encoder": "c"},
    )
    before, after = (
        setting_of(load_sample_config(changed), weights, plan, machine)
        for changed in (plan, plan.with_changes(sample_options=option))
    )
    assert name in [key for key in after if after[key] != before[key]]
    json.dumps(after)


def test_results_depend_on_every_piece_of_the_model(plan):
    config, machine = load_sample_config(plan), dict.fromkeys(("cpu", "threads", "gpu", "torch"))
    weights = {"model": "a", "vae": "b", "text_encoder": "c"}
    before = setting_of(config, weights, plan, machine)
    for piece, name in (("model", "weights"), ("text_encoder", "weights"), ("vae", "autoencoder")):
        after = setting_of(config, {**weights, piece: "d"}, plan, machine)
        assert [key for key in after if after[key] != before[key]] == [name]
