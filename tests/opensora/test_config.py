"""Config files: what they become, and how mistakes in them are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adacache.calibration.target import TARGETS
from opensora.config.loading import load_config, load_without_cache
from opensora.errors import ConfigError
from support import small_model

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / small_model.SAMPLE

REST = """vae = dict(
    type="OpenSoraVAE_V1_2",
    from_pretrained="hpcai-tech/OpenSora-VAE-v1.2",
    micro_frame_size=17,
    micro_batch_size=4,
)
text_encoder = dict(
    type="t5", from_pretrained="DeepFloyd/t5-v1_1-xxl", model_max_length=300, local_files_only=True, shardformer=True
)
"""

# A config as the official AdaCache code ships them: cache options flat inside `model`, kernels switched on.
OFFICIAL = (
    """
resolution = "720p"
aspect_ratio = "9:16"
num_frames = 51
fps = 24
frame_interval = 1
save_fps = 24
save_dir = "./samples/"
seed = 42
batch_size = 1
multi_resolution = "STDiT2"
dtype = "bf16"
condition_frame_length = 5
align = 5
prompt = ["a cat"]
model = dict(
    type="STDiT3-XL/2",
    from_pretrained="hpcai-tech/OpenSora-STDiT-v3",
    qk_norm=True,
    enable_flash_attn=True,
    enable_layernorm_kernel=True,
    num_sampling_steps=100,
    do_cache=True,
    cache_res="t-attn",
    cache_loc=[13],
    codebook={0.03: 12, 0.05: 10, 0.07: 8, 0.09: 6, 0.11: 4, 1.00: 3},
    apply_moreg=True,
    moreg_strides=[1],
    moreg_steps=(10, 90),
    moreg_hyp=(0.385, 8, 1, 2),
    mograd_mul=10,
)
"""
    + REST
    + """scheduler = dict(type="rflow", use_timestep_transform=True, num_sampling_steps=100, cfg_scale=7.0)
aes = 6.5
flow = None
"""
)

# The same in the layout of the official files: variables first, then passed into `model`; no prompt, no save_dir.
OFFICIAL_LAYOUT = (
    """
resolution = "720p"
aspect_ratio = "9:16"
num_frames = 51
fps = 24
frame_interval = 1
save_fps = 24

num_sampling_steps = 100

do_cache = True
cache_res = 't-attn'
cache_loc = [13]
codebook = {0.03: 12, 0.05: 10, 0.07: 8, 0.09: 6, 0.11: 4, 1.00: 3}

apply_moreg = True
moreg_strides = [1]
moreg_steps = (10, 90)
moreg_hyp = (0.385, 8, 1,2)
mograd_mul = 10

seed = 1024
batch_size = 1
multi_resolution = "STDiT2"
dtype = "bf16"
condition_frame_length = 5
align = 5
aes = 6.5
flow = None

model = dict(
    type="STDiT3-XL/2",
    from_pretrained="hpcai-tech/OpenSora-STDiT-v3",
    qk_norm=True,
    enable_flash_attn=True,
    enable_layernorm_kernel=True,
    num_sampling_steps=num_sampling_steps,
    do_cache=do_cache,
    cache_res=cache_res,
    cache_loc=cache_loc,
    codebook=codebook,
    apply_moreg=apply_moreg,
    moreg_strides=moreg_strides,
    moreg_steps=moreg_steps,
    moreg_hyp=moreg_hyp,
    mograd_mul=mograd_mul,
)
"""
    + REST
    + """
scheduler = dict(
    type="rflow", use_timestep_transform=True, num_sampling_steps=num_sampling_steps, cfg_scale=7.0
)
"""
)


@pytest.fixture
def write(tmp_path):
    """Write a config file: the official one with some text replaced."""

    def write_config(*replacements: tuple[str, str], name: str = "config.py") -> Path:
        text = OFFICIAL
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_config


def error_of(path, overrides=None, cfg_options=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, cfg_options)
    message = str(caught.value)
    assert "\n" not in message
    return message


NO_SAMPLING = ("_base_", "bench")  # folders of parts of configs, and of plans
# Nobody can sample with them before they are calibrated: tests/opensora/config says what they answer.
NOT_CALIBRATED = [ROOT / f"configs/{name}/sample_calibrated.py" for name in ("latte", "open_sora_plan")]
SHIPPED = sorted(
    path for path in ROOT.glob("configs/**/*.py") if path.parent.name not in NO_SAMPLING and path not in NOT_CALIBRATED
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_config_loads(path):
    config = load_config(path)
    assert (config.cache is not None) == any(word in path.name for word in ("adacache", "calibrated"))
    assert (getattr(config.cache, "moreg", None) is not None) == ("moreg" in path.name)


def test_the_full_size_config_is_the_published_setting():
    config = load_config(ROOT / "configs/sample_adacache.py")
    assert (config.height, config.width, config.num_frames) == (720, 1280, 51)
    assert (config.scheduler.num_sampling_steps, config.scheduler.cfg_scale) == (100, 7.0)
    assert (config.aes, config.flow, config.dtype, config.seed) == (7.0, 5.0, "bf16", 1024)


def test_the_variables_of_an_official_file_are_no_keys_of_their_own(tmp_path):
    file = tmp_path / "official.py"
    file.write_text(OFFICIAL_LAYOUT)
    official = load_config(file)
    ours = load_config(ROOT / "configs/sample_adacache_moreg.py")
    assert official.scheduler.num_sampling_steps == 100
    assert official.cache.codebook == ours.cache.codebook
    assert official.cache.moreg.resolve_window(100) == ours.cache.moreg.resolve_window(100)
    fewer = load_config(file, {"num_sampling_steps": 95})
    assert fewer.scheduler.num_sampling_steps == 95
    with pytest.raises(ConfigError, match="unknown key 'codebook'"):
        load_config(file, None, {"codebook": "fast30"})


def test_an_official_config_means_the_same_as_ours(write):
    official = load_config(write())
    ours = load_config(ROOT / "configs/sample_adacache_moreg.py")
    assert official.cache.codebook.thresholds == ours.cache.codebook.thresholds == (0.03, 0.05, 0.07, 0.09, 0.11)
    assert official.cache.codebook.rates == ours.cache.codebook.rates == (12, 10, 8, 6, 4, 3)
    assert (official.cache.metric, official.cache.metric_blocks) == (ours.cache.metric, ours.cache.metric_blocks)
    windows = [config.cache.moreg.resolve_window(100) for config in (official, ours)]
    assert windows == [(10, 90), (10, 90)]
    for name in ("scale", "power", "divisor", "gradient_weight", "strides"):
        assert getattr(official.cache.moreg, name) == getattr(ours.cache.moreg, name)
    for name in ("model", "vae", "scheduler", "height", "width", "num_frames", "fps", "save_fps", "dtype"):
        assert getattr(official, name) == getattr(ours, name)


def test_an_official_config_caches_only_if_it_says_so(write):
    assert load_config(write(("do_cache=True", "do_cache=False"))).cache is None
    assert load_config(write(("    do_cache=True,\n", ""))).cache is None


def test_the_scheduler_is_the_only_source_of_the_number_of_steps(write):
    path = write(("num_sampling_steps=100,\n    do_cache", "num_sampling_steps=30,\n    do_cache"))
    assert load_config(path).scheduler.num_sampling_steps == 100
    assert load_config(path, {"num_sampling_steps": 120}).scheduler.num_sampling_steps == 120
    path = write(("num_sampling_steps=100, cfg", "cfg"))  # left to the model's copy
    assert load_config(path).scheduler.num_sampling_steps == 100
    assert "--num-sampling-steps" in error_of(path, cfg_options={"model.num_sampling_steps": 50})


def test_both_cache_styles_at_once_are_refused(write):
    path = write(("aes = 6.5", "cache = dict(metric='t-attn')"))
    assert "keep one of the two styles" in error_of(path)


def test_flags_and_cfg_options_override_the_file():
    flags = {"cfg_scale": 3, "resolution": "144p", "aspect_ratio": "9:16", "num_frames": "2s", "ckpt_path": "x/y"}
    config = load_config(MINI, flags, {"vae.micro_batch_size": 2, "scheduler.cfg_scale": 9.0})
    assert config.scheduler.cfg_scale == 3.0  # the flag wins over --cfg-options
    assert (config.height, config.width, config.num_frames) == (144, 256, 51)
    assert (config.model.from_pretrained, config.vae.micro_batch_size) == ("x/y", 2)


def test_the_flag_chooses_between_prompts_and_prompt_file(write):
    assert load_config(MINI, {"prompt": ["a", "b"]}).prompt == ("a", "b")
    assert load_config(MINI, {"prompt": ["a"]}).prompt_path is None
    config = load_config(write(), {"prompt_path": "p.txt"})
    assert (config.prompt, config.prompt_path) == (None, "p.txt")
    assert "cannot be combined" in error_of(MINI, {"prompt": ["a"], "prompt_path": "p.txt"})


def test_a_cache_can_be_switched_off_and_its_codebook_replaced():
    path = ROOT / small_model.ADACACHE
    assert load_config(path, cfg_options={"cache": None}).cache is None
    codebook = load_config(path, cfg_options={"cache.codebook": [(0.1, 4), (1.0, 2)]}).cache.codebook
    assert (codebook.thresholds, codebook.rates) == ((0.1,), (4, 2))


def test_save_fps_defaults_to_the_sampled_frame_rate(write):
    path = write(("save_fps = 24\n", ""), ("frame_interval = 1", "frame_interval = 3"))
    assert load_config(path).save_fps == 8


def test_yaml_and_long_dtype_names_are_read(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "image_size: [64, 48]\nnum_frames: 17\ndtype: bfloat16\n"
        "model: {from_pretrained: a/b}\nvae: {from_pretrained: a/b}\n"
        "text_encoder: {from_pretrained: a/b}\nscheduler: {}\n"
    )
    config = load_config(path)
    assert (config.height, config.width, config.dtype) == (64, 48, "bf16")


def test_plain_python_in_a_config_works(write):
    path = write(('save_dir = "./samples/"', 'import os\nsave_dir = os.path.join("a", "b")'))
    assert load_config(path).save_dir == "a/b"


MISTAKES = [
    (("fps = 24\nframe", "fpps = 24\nframe"), ["config.py", "'fpps'", "did you mean 'fps'"]),
    (("cfg_scale=7.0", "cfg_scal=7.0"), ["'cfg_scal' in 'scheduler'", "did you mean 'cfg_scale'"]),
    (("cache_loc=[13]", "cache_lock=[13]"), ["'cache_lock' in 'model'"]),
    (("num_sampling_steps=100, cfg", "num_sampling_steps='ten', cfg"), ["a whole number, got 'ten'"]),
    (("num_sampling_steps=100, cfg", "num_sampling_steps=True, cfg"), ["a whole number, got True"]),
    (("cfg_scale=7.0", "cfg_scale=float('nan')"), ["scheduler.cfg_scale must be a number"]),
    (("batch_size = 1", "batch_size = 0"), ["batch_size must be at least 1, got 0"]),
    (("fps = 24\nframe", "fps = None\nframe"), ["fps must be a whole number, got None"]),
    (('dtype = "bf16"', 'dtype = "bf61"'), ["dtype must be one of", "did you mean 'bf16'"]),
    (('type="STDiT3-XL/2"', 'type="STDiT3-XL2"'), ["model.type", "did you mean 'STDiT3-XL/2'"]),
    (('"720p"', '"721p"'), ["unknown resolution", "720p"]),
    (('"9:16"', '"9:15"'), ["aspect ratio", "9:16"]),
    (("num_frames = 51", "num_frames = '3s'"), ["unknown duration '3s'", "2s"]),
    (('resolution = "720p"\n', ""), ["'resolution' is missing"]),
    (('resolution = "720p"', 'resolution = "720p"\nimage_size = (64, 64)'), ["cannot be combined"]),
    (('aspect_ratio = "9:16"', 'aspect_ratio = "9:16"\nloop = 0'), ["loop must be at least 1, got 0"]),
    (("seed = 42", "seed = 42\nreference_path = [3]"), ["reference_path must be a list (text each) or None"]),
    (("seed = 42", "seed = 42\ndevice = 'gpu'"), ["device", "'cuda:N'", "'gpu'"]),
    (("seed = 42", "seed = 42\nstart_index = 3\nend_index = 3"), ["end_index (3)", "start_index (3)"]),
    (("seed = 42", "seed = 42\nsample_name = 'a/b'"), ["sample_name", "save_dir"]),
    (("seed = 42", "seed = 42\nfilename = 'a'"), ["config.py", "filename"]),
    (("seed = 42", "seed = = 42"), ["config.py", "line 9"]),
    (("seed = 42", "seed = 1 / 0"), ["config.py", "ZeroDivisionError"]),
    (
        ("scheduler = dict(type='rflow'".replace("'", '"'), "schedule = dict(type='rflow'"),
        ["'schedule'", "'scheduler'"],
    ),
    (("0.05: 10", "0.02: 10"), ["model: ", "ascend"]),
    (("0.05: 10", "0.05: 0"), ["model: ", "rate"]),
    (("cache_loc=[13]", "cache_loc=[28]"), ["model: ", "28"]),
    (("moreg_steps=(10, 90)", "moreg_steps=(10, 101)"), ["model: ", "100"]),
    (("do_cache=True", "do_cache=1"), ["do_cache must be True or False"]),
]


@pytest.mark.parametrize(("replacement", "words"), MISTAKES, ids=[replacement[1][:40] for replacement, _ in MISTAKES])
def test_a_mistake_is_named_in_one_sentence(write, replacement, words):
    message = error_of(write(replacement))
    for word in words:
        assert word in message


def test_the_place_of_a_mistake_is_told(write):
    assert error_of(MINI, {"seed": -1}).startswith("command line: seed")
    assert error_of(MINI, cfg_options={"vae.micro_batch_size": 0}).startswith("command line: vae.micro_batch_size")
    assert error_of(write(("seed = 42", "seed = -1"))).startswith(str(write().parent))
    assert error_of(MINI, {"resolution": "144p", "aspect_ratio": "9:15"}).startswith("command line")


def test_a_missing_file_suggests_its_nearest_neighbor():
    assert "did you mean 'configs/mini/sample.py'" in error_of("configs/mini/sampel.py")
    assert "does not exist" in error_of("no/such/folder/config.py")


def test_an_option_inside_a_missing_section_is_refused(write):
    assert "'cache'" in error_of(write(("aes = 6.5", "cache = None")), cfg_options={"cache.metric": "s-attn"})


def test_metric_blocks_are_checked_against_a_local_models_depth(tmp_path, write):
    (tmp_path / "config.json").write_text('{"depth": 4}')
    path = ROOT / small_model.ADACACHE
    assert load_config(path, {"ckpt_path": str(tmp_path)}, {"cache.metric_blocks": [3]}).cache.metric_blocks == (3,)
    message = error_of(path, {"ckpt_path": str(tmp_path)}, {"cache.metric_blocks": [4]})
    assert message.startswith("command line: cache: ") and "0..3" in message


def test_reading_a_config_does_not_import_torch():
    code = (
        "import sys; from opensora.config.loading import load_config; "
        "load_config('configs/sample_adacache_moreg.py'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_schedule_can_be_written_into_the_config():
    config = load_config(MINI, cfg_options={"cache.computed_steps": [0, 1, 5, 28, 29]})
    assert config.cache.computed_steps == (0, 1, 5, 28, 29)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read .*trace.json: No such file"),
        ("{}", "holds no trace"),
        ('{"num_steps": 30, "records": [], "metadata": {}}', "holds 0 of 30 steps"),
    ],
)
def test_a_trace_that_cannot_be_replayed_is_named(tmp_path, text, message):
    path = tmp_path / "trace.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(MINI, {"replay": str(path)})


@pytest.mark.parametrize(
    ("cache", "name"),
    [
        ({"policy": "adacache", "codebook": "fast30", "metric_blocks": [2]}, "AdaCacheConfig"),
        ({"policy": "static", "computed_steps": [0, 5]}, "StaticScheduleConfig"),
        ({"policy": "fixed", "interval": 3, "bridge": "fitted"}, "FixedIntervalConfig"),
        ({"policy": "magcache", "ratios": [0.99] * 29}, "MagCacheConfig"),
        ({"policy": "taylorseer", "interval": 4, "order": 2}, "TaylorSeerConfig"),
        ({"policy": "teacache", "coefficients": [1.0, 0.0]}, "TeaCacheConfig"),
        ({"policy": "fbcache", "threshold": 0.1}, "FBCacheConfig"),
        ({"policy": "easycache", "warmup": 3}, "EasyCacheConfig"),
        ({"policy": "pab", "spatial": 3, "mlp_blocks": [0, 1]}, "PABConfig"),
    ],
)
def test_a_config_names_its_policy(cache, name):
    config = load_config(MINI, cfg_options={f"cache.{key}": value for key, value in cache.items()}).cache
    assert type(config).__name__ == name
    for key in set(cache) - {"policy", "bridge", "codebook"}:
        value = getattr(config, key)
        assert (list(value) if isinstance(value, tuple) else value) == cache[key]


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        ({"policy": "tailorseer"}, "policy 'tailorseer' is unknown, did you mean 'taylorseer'?"),
        ({"policy": 3}, "policy 3 is unknown (valid: adacache, static, "),
        ({"policy": "fixed", "intervall": 3}, "unknown fixed interval option 'intervall', did you mean 'interval'?"),
        ({"policy": "fixed", "interval": 0}, "interval must be a whole number >= 1, got 0"),
        ({"policy": "magcache"}, "policy 'magcache' needs ratios"),
        ({"policy": "taylorseer", "bridge": "hold"}, "bridge 'hold' cannot be used with TaylorSeer"),
        ({"policy": "static"}, "policy 'static' needs computed_steps"),
        ({"policy": "static", "computed_steps": [0, 30]}, "computed_steps go up to 30"),
        ({"policy": "static", "file": "a.json", "computed_steps": [0]}, "file and computed_steps cannot be combined"),
        ({"file": "a.json", "computed_steps": [0]}, "file and computed_steps cannot be combined"),
        ({"policy": "static", "file": 5}, "file must be the path of a schedule (.json), got 5"),
        ({"policy": "static", "file": "no_such.json"}, "there is no file no_such.json"),
        ({"policy": "fixed", "file": "a.json"}, "unknown fixed interval option 'file'"),
    ],
)
def test_mistakes_about_a_policy_are_told(cache, words):
    message = error_of(MINI, cfg_options={f"cache.{key}": value for key, value in cache.items()})
    assert message.startswith("command line: cache: ") and words in message


def config_beside(folder: Path, cache: str) -> Path:
    """A config in ``folder``, the mini one but for its cache."""
    path = folder / "config.py"
    path.write_text(f"_base_ = ['{MINI}']\ncache = {cache}\n")
    return path


def test_a_schedule_file_is_found_beside_the_config_or_from_the_root(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    (tmp_path / "root").mkdir()
    config = config_beside(tmp_path / "config", "dict(policy='static', file='schedule.json', cache_device='cpu')")
    monkeypatch.setattr("opensora.files.REPO_ROOT", tmp_path / "root")
    assert "cache: there is no file schedule.json" in error_of(config)
    (tmp_path / "root/schedule.json").write_text('{"computed_steps": [0, 3], "bridge": "fitted"}')
    assert load_config(config).cache.computed_steps == (0, 3)
    (tmp_path / "config/schedule.json").write_text('{"computed_steps": [0, 1, 2], "bridge": "fitted"}')
    cache = load_config(config).cache
    assert (cache.computed_steps, cache.bridge.kind, cache.cache_device) == ((0, 1, 2), "fitted", "cpu")
    assert load_config(config, cfg_options={"cache.bridge": "linear"}).cache.bridge.kind == "linear"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[0, 1]", "schedule.json holds no schedule; give a trace"),
        ("{", "schedule.json is not a JSON file"),
        ('{"computed_steps": [0, 40]}', "computed_steps go up to 40"),
        ('{"computed_steps": [0, 4], "num_sampling_steps": 50}', "made for 50 sampling steps, but the run has 30"),
    ],
)
def test_a_schedule_file_that_does_not_fit_is_told(tmp_path, text, words):
    (tmp_path / "schedule.json").write_text(text)
    message = error_of(config_beside(tmp_path, "dict(policy='static', file='schedule.json')"))
    assert "cache: " in message and words in message


def test_a_folder_is_no_schedule_file(tmp_path):
    (tmp_path / "schedules").mkdir()
    config = config_beside(tmp_path, f"dict(policy='static', file='{tmp_path / 'schedules'}')")
    assert "cannot read" in error_of(config) and "Is a directory" in error_of(config)


@pytest.mark.parametrize(
    "options",
    [
        {"speedup": 2.0},
        {"draft": 2},
        {"final": "42"},
        {"model.do_cache": True, "model.cache_loc": [1], "model.codebook": "fast30"},
        {"cache.codebook": "fast30"},
    ],
)
@pytest.mark.parametrize("name", ["sample", "sample_adacache", "sample_calibrated"])
def test_without_a_cache_every_step_is_computed_whatever_else_is_said(name, options):
    config = load_without_cache(MINI.with_name(f"{name}.py"), None, options)
    assert config.cache is None and config.draft is None and config.final is None
    assert all(getattr(config, target) is None for target in TARGETS)
    assert config.num_frames == load_config(MINI).num_frames


def test_without_a_cache_other_options_count():
    config = load_without_cache(MINI, {"num_sampling_steps": 9}, {"scheduler.cfg_scale": 2.5, "speedup": 2.0})
    assert (config.scheduler.num_sampling_steps, config.scheduler.cfg_scale) == (9, 2.5)
