"""A setting does what it promises, or is refused; none is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from adacache.policies.adacache import AdaCacheConfig
from adacache.policies.multistep import MultistepConfig
from opensora.config.loading import load_config
from opensora.errors import ConfigError
from support import small_model

ROOT = Path(__file__).resolve().parents[3]
MINI = ROOT / small_model.SAMPLE
LARGE = ROOT / "configs/sample_480p.py"
OFFICIAL = {"model.do_cache": True, "model.cache_res": "t-attn", "model.codebook": {0.03: 12, 1.0: 3}}


@pytest.mark.parametrize(
    ("path", "flags", "options", "policy"),
    [
        (LARGE, {"draft": 4}, {}, AdaCacheConfig),
        (LARGE, {"final": ["1024"]}, {}, AdaCacheConfig),
        (LARGE, {}, OFFICIAL, AdaCacheConfig),
        (ROOT / small_model.CALIBRATED, {}, {}, MultistepConfig),
        (ROOT / small_model.ADACACHE, {}, {}, AdaCacheConfig),
    ],
    ids=["draft", "final", "official", "calibrated", "own"],
)
def test_low_memory_moves_every_cache(path, flags, options, policy):
    cache = load_config(path, {"low_memory": True, **flags}, options).cache
    assert (type(cache), cache.cache_device) == (policy, "cpu")
    assert load_config(path, flags, options).cache.cache_device == "model"


def test_low_memory_leaves_a_cache_where_the_command_line_puts_it():
    options = {"cache.cache_device": "model"}
    for flags in ({}, {"draft": 4}):
        config = load_config(ROOT / small_model.ADACACHE, {"low_memory": True, **flags}, options)
        assert config.cache.cache_device == "model"
    assert load_config(MINI, {"low_memory": True}).cache is None


@pytest.mark.parametrize(
    ("flags", "options", "switch"),
    [
        ({"llm_endpoint": "http://localhost:8000/v1", "llm_model": "m"}, {}, "llm_refine"),
        ({"llm_model": "m"}, {}, "llm_refine"),
        ({}, {"vae.tile_size": 16}, "vae.tiling"),
        ({"low_memory": True}, {"vae.tile_size": 16, "vae.tiling": False}, "vae.tiling"),
    ],
    ids=str,
)
def test_a_setting_without_its_switch_is_refused(flags, options, switch):
    with pytest.raises(ConfigError, match=f"^command line: .* has no effect without {switch}; set {switch}=True, or"):
        load_config(MINI, flags, options)


def mini(folder: Path, entries: str = "") -> Path:
    """A config like the mini one with other `entries`."""
    file = folder / "config.py"
    file.write_text(f"_base_ = {str(MINI)!r}\n{entries}\n")
    return file


def test_a_file_may_hold_settings_for_runs_that_have_the_switch(tmp_path):
    file = mini(tmp_path, "llm_endpoint = 'http://localhost:8000/v1'\nllm_model = 'm'\nvae = dict(tile_size=16)")
    assert not load_config(file).llm_refine and not load_config(file).vae.tiling
    config = load_config(file, {"llm_refine": True, "low_memory": True})
    assert config.llm_refine and (config.vae.tiling, config.vae.tile_size) == (True, 16)


@pytest.mark.parametrize(
    ("entries", "flags", "is_on"),
    [
        ("watermark_text = 'by me'", {}, True),
        ("watermark_text = 'by me'\nwatermark = None", {}, True),
        ("watermark_text = 'by me'\nwatermark = False", {}, False),
        ("watermark_text = 'by me'", {"watermark": False}, False),
        ("watermark = False", {"watermark_text": "by me"}, True),
        ("", {}, False),
    ],
)
def test_the_text_of_a_watermark_switches_it_on(tmp_path, entries, flags, is_on):
    assert load_config(mini(tmp_path, entries), flags).watermark is is_on


@pytest.mark.parametrize(
    ("flags", "rate"),
    [
        ({}, 8),
        ({"fps": 24}, 24),
        ({"frame_interval": 2}, 4),
        ({"fps": 24, "frame_interval": 2}, 12),
        ({"fps": 24, "save_fps": 6}, 6),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", [small_model.SAMPLE, "configs/mini/sample.py", "configs/latte/sample.py"])
def test_a_frame_rate_on_the_command_line_is_that_of_the_mp4(name, flags, rate):
    assert load_config(ROOT / name, flags).save_fps == rate


def test_a_frame_rate_in_a_file_is_that_of_the_mp4(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(f"_base_ = {str(ROOT / 'configs/mini/sample.py')!r}\nfps = 24\n")
    assert load_config(file).save_fps == 24
    file.write_text(file.read_text() + "save_fps = 12\n")
    assert load_config(file).save_fps == 12


@pytest.mark.parametrize(
    ("path", "flags", "options", "decides"),
    [
        (ROOT / small_model.CALIBRATED, {}, {"cache.policy": "easycache"}, "speedup"),
        (ROOT / small_model.ADACACHE, {"speedup": 2.0}, {"cache.bridge": "fitted"}, "speedup"),
        (ROOT / small_model.ADACACHE, {"speedup": 2.0}, {"cache.cache_dtype": "bf16"}, "speedup"),
        (ROOT / small_model.ADACACHE, {"speedup": 2.0}, {"cache.schedule": "batch"}, "speedup"),
        (ROOT / small_model.ADACACHE, {"draft": 2}, {"cache.codebook": "fast30"}, "draft"),
        (ROOT / small_model.ADACACHE, {"replay": "trace.json"}, {"cache.metric": "s-attn"}, "replay"),
    ],
    ids=str,
)
def test_options_of_a_cache_that_something_else_replaces_are_refused(path, flags, options, decides):
    [key] = options
    with pytest.raises(ConfigError, match=f"^command line: {key} has no effect with {decides}; leave one of them out"):
        load_config(path, flags, options)


def test_no_cache_by_hand_is_none_in_the_official_style_too(tmp_path):
    file = mini(tmp_path, "model = dict(do_cache=True, cache_res='t-attn', cache_loc=[1], codebook='fast30')")
    assert load_config(file).cache is not None
    assert load_config(file, {}, {"cache": None}).cache is None


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("num_sampling_steps", "scheduler.num_sampling_steps"),
        ("cfg_scale", "scheduler.cfg_scale"),
        ("do_cache", "model.do_cache"),
        ("tiling", "vae.tiling"),
        ("height", "image_size"),
        ("promt", "prompt"),
    ],
)
def test_names_that_belong_elsewhere_are_suggested_there(name, place):
    with pytest.raises(ConfigError, match=rf"unknown key '{name}'; did you mean '{place}'\?"):
        load_config(MINI, {}, {name: 3})


def test_a_suggested_command_can_be_pasted(tmp_path):
    folder = tmp_path / "my configs"
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"calibrate\.py '.*/my configs/config\.py'' "):
        load_config(mini(folder, "calibration = None"), {"speedup": 2.0})
