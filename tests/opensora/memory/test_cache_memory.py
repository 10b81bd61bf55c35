"""What is said about the cache's memory before a run, against what the run holds, and kept residuals in bf16."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adacache.calibration.quality import psnr
from adacache.memory import CacheBytes, estimate_cache_bytes
from adacache.policies.static import StaticScheduleConfig
from opensora.config.loading import load_config
from opensora.errors import ConfigError
from opensora.memory import report
from opensora.memory.report import cache_text, check_cache_memory
from opensora.memory.shapes import read_shapes
from opensora.pipeline import SamplingPipeline
from scripts import inference

ROOT = Path(__file__).resolve().parents[3]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
CONFIG = "configs/mini/sample_adacache.py"
PROMPTS = (
    "a still red circle on a navy background",
    "a green star moving fast to the right on a brown checkered background",
    "a yellow square on a gray background while the camera pans left",
)
SEEDS = (3, 4, 5)
STATIC = StaticScheduleConfig((0, 1, 3, 6, 10, 15, 20, 25, 28, 29))


@pytest.fixture(scope="module")
def pipe() -> SamplingPipeline:
    return SamplingPipeline.from_config(CONFIG)


@pytest.fixture
def config():
    """The mini config with absolute folders, as a run has them."""
    config = load_config(CONFIG)
    sections = {name: getattr(config, name) for name in ("model", "vae")}
    located = {
        name: replace(value, from_pretrained=str(ROOT / value.from_pretrained)) for name, value in sections.items()
    }
    return replace(config, **located)


def sample(pipe, cache, prompts=PROMPTS[:1]):
    """A batch of videos, and the most bytes its controller held after any block or step."""
    pipe.cache, held = cache, []

    def note(module, arguments, keywords, output):
        controller = keywords.get("controller") or arguments[-1]  # blocks that nobody looks into get none
        if controller is not None:
            held.append(controller.nbytes)

    watched = (pipe.model, *pipe.model.spatial_blocks, *pipe.model.temporal_blocks)
    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in watched]
    output = pipe(prompts, seed=SEEDS[: len(prompts)], progress=False)
    for hook in hooks:
        hook.remove()
    return output, max(held)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cache_dtype": "bf16"},
        {"cache_device": "cpu"},
        {"bridge": "fitted", "cache_dtype": "fp16"},
        {"metric": "ca-mlp", "metric_blocks": (1, 2)},
        {"schedule": "batch"},
    ],
    ids=str,
)
def test_a_run_holds_what_was_promised(pipe, config, options):
    cache = replace(config.cache, **options)
    _, held = sample(pipe, cache, PROMPTS)
    elements = read_shapes(config).num_hidden_states(config, len(PROMPTS))
    assert held == estimate_cache_bytes(cache, 30, elements, "fp32").total


def test_residuals_kept_in_bf16_take_half_the_memory_and_leave_the_video_as_it_is(pipe, config):
    """Of six prompts the one that changed most had 59 dB (bridge "fitted": 58), and every schedule was the same."""
    for cache, share in ((STATIC, 1 / 2), (config.cache, 3 / 4)):  # a measured residual stays as it is
        full, full_bytes = sample(pipe, cache, PROMPTS)
        narrow, narrow_bytes = sample(pipe, replace(cache, cache_dtype="bf16"), PROMPTS)
        assert narrow_bytes == share * full_bytes
        for index in range(len(PROMPTS)):
            assert narrow.traces[index].computed_steps == full.traces[index].computed_steps
            assert psnr(narrow.videos[index], full.videos[index]) > 50
        assert not torch.equal(narrow.latents, full.latents)


def test_hidden_states_are_counted_with_both_guidance_halves(pipe, config):
    sizes = []
    hook = pipe.model.spatial_blocks[0].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].numel()))
    pipe.cache = STATIC
    pipe(PROMPTS[:2], seed=3, progress=False)
    hook.remove()
    assert set(sizes) == {read_shapes(config).num_hidden_states(config, 2)}


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (CacheBytes(2, 112_000_000, 1, 112_000_000), "3 tensors of 0.11 GB = 0.34 GB"),
        (CacheBytes(1, 500_000_000, 0, 500_000_000), "1 tensor of 0.50 GB"),
        (CacheBytes(1, 60_000_000, 1, 120_000_000), "1 tensor of 0.06 GB + 1 of 0.12 GB = 0.18 GB"),
        (CacheBytes(2, 80_000, 0, 160_000), "2 tensors of 0.08 MB = 0.16 MB"),
    ],
)
def test_the_estimate_in_words(estimate, text):
    assert cache_text(estimate) == text


@pytest.mark.parametrize(
    ("device", "options", "where"),
    [
        (CPU, {}, "in CPU memory"),
        (GPU, {}, "on the GPU"),
        (GPU, {"cache_device": "cpu"}, "in CPU memory"),
    ],
)
def test_the_log_says_how_much_and_where(config, caplog, monkeypatch, device, options, where):
    monkeypatch.setattr(report, "free_memory", lambda device: 10**9)
    config = replace(config, cache=replace(config.cache, **options), batch_size=4)
    with caplog.at_level(logging.DEBUG, "opensora"):
        check_cache_memory(config, 3, device)  # the run has fewer prompts than a batch may have
    assert caplog.messages == [f"cache: 2 tensors of 0.25 MB = 0.49 MB {where}"]


@pytest.mark.parametrize(
    ("device", "options", "fixes"),
    [
        (GPU, {"bridge": "linear"}, ["cache.cache_device='cpu'", "cache.cache_dtype='bf16'", "cache.bridge='hold'"]),
        (GPU, {"cache_dtype": "bf16"}, ["cache.cache_device='cpu'"]),
        (GPU, {"cache_device": "cpu"}, ["cache.cache_dtype='bf16'"]),
        (CPU, {"bridge": "fitted", "cache_dtype": "fp16"}, ["cache.bridge='hold'"]),
        (CPU, {"cache_dtype": "bf16"}, []),
    ],
)
def test_too_little_memory_is_refused_with_what_would_help(config, monkeypatch, device, options, fixes):
    monkeypatch.setattr(report, "free_memory", lambda device: 1000)
    monkeypatch.setattr(report, "free_in_cpu_memory", lambda: 1000)
    config = replace(config, cache=replace(config.cache, **options))
    with pytest.raises(
        ConfigError, match=r"^cache: it would hold 0.\d\d MB .*, where 0.00 MB are free; it takes less"
    ) as caught:
        check_cache_memory(config, 1, device)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(" or ".join([*fixes, "a smaller batch_size or video"]))


def test_the_command_refuses_before_a_model_is_loaded(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(report, "free_in_cpu_memory", lambda: 1000)
    monkeypatch.setattr(SamplingPipeline, "from_config", lambda config: pytest.fail("loaded the models"))
    arguments = [str(ROOT / CONFIG), "--prompt", "a red star", "--device", "cpu", "--save-dir", str(tmp_path)]
    assert inference.main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: cache: it would hold 0.16 MB in CPU memory")


def test_nothing_is_said_without_a_cache(config, caplog):
    with caplog.at_level(logging.INFO, "opensora"):
        check_cache_memory(replace(config, cache=None), 1, CPU)
    assert not caplog.messages


def test_a_config_json_without_sense_is_named(config, tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": "wide"}')
    senseless = replace(config, model=replace(config.model, from_pretrained=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"config.json cannot be used: "):
        check_cache_memory(senseless, 1, CPU)
