from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adacache import StepController
from adacache.policies.static import StaticScheduleConfig
from opensora.memory.live_bytes import held_bytes, peak_live_bytes
from opensora.memory.measure import StageMeter
from opensora.memory.report import estimate_stages
from opensora.memory.shapes import read_shapes
from opensora.pipeline import SamplingPipeline

SIDE = 128  # pixels: activations are several times the weights
TILES = {"vae.micro_batch_size": 1, "vae.tiling": True, "vae.tile_size": 8}


def by_name(config, batch=1, **options):
    return {stage.name: stage for stage in estimate_stages(config, batch, **options)}


@pytest.fixture(scope="module")
def large(mini):
    return mini(image_size=[SIDE, SIDE], num_sampling_steps=3)


@pytest.fixture(scope="module")
def pipe(large):
    return SamplingPipeline.from_config(large)


def test_weights_are_those_of_the_loaded_models(large, pipe):
    stages = by_name(large)
    assert stages["text"].weights == held_bytes(pipe.text_encoder.encoder.model)
    assert stages["denoise"].weights == held_bytes(pipe.model) + held_bytes(pipe.vae)
    assert stages["decode"].weights == stages["denoise"].weights
    narrow = by_name(replace(large, dtype="bf16"))
    assert narrow["denoise"].weights * 2 == stages["denoise"].weights


def test_published_weights_are_those_of_the_published_files(mini):
    stages = by_name(mini("configs/sample_adacache.py"))
    assert stages["text"].weights == 4 * 4_762_310_656
    assert stages["denoise"].weights == 2 * (1_208_872_772 + 393_341_015)  # tests/golden/manifests


def test_references_of_prompts_count_as_those_of_the_config(large):
    named = by_name(replace(large, reference_path=("a.png",)))
    assert named == by_name(large, references=True) and "references" in named
    assert "references" not in by_name(large)


@pytest.mark.parametrize(
    "cache", [None, "config", StaticScheduleConfig((0, 2))], ids=["computed", "adacache", "static"]
)
@pytest.mark.parametrize("batch", [1, 2])
def test_denoising_holds_what_was_estimated(large, pipe, cache, batch):
    config = large if cache == "config" else replace(large, cache=cache)
    own = pipe.with_config(config)

    def denoise():
        controller = None if own.cache is None else StepController(own.cache)
        own.sample_latents(["a red star", "a blue circle"][:batch], 1, progress=False, controller=controller)

    stage = by_name(config, batch)["denoise"]
    # Without their mask, texts are counted at their full length; a signal's first step has nothing to compare with.
    assert peak_live_bytes(denoise) == pytest.approx(stage.activations + stage.cache, rel=0.1)


@pytest.mark.parametrize(
    ("options", "batch"),
    [({}, 1), ({"vae.micro_batch_size": 3}, 2), pytest.param(TILES, 1, marks=pytest.mark.slow)],
    ids=str,
)
def test_decoding_holds_what_was_estimated(mini, batch, options):
    config = mini(image_size=[SIDE, SIDE], options=options)
    pipe, shapes = SamplingPipeline.from_config(config), read_shapes(config)
    latents = torch.zeros(batch, 4, *shapes.latent_size)
    found = peak_live_bytes(lambda: pipe.decode(latents, progress=False))
    assert found == pytest.approx(shapes.decode_activations(batch), rel=0.1)


# On many CPUs, convolutions in bf16 are slow: a smaller clip will do.
@pytest.mark.parametrize(
    ("options", "dtype", "side"),
    [({}, "fp32", SIDE), ({"vae.micro_batch_size": 3}, "bf16", SIDE // 3), (TILES, "fp32", SIDE)],
    ids=str,
)
def test_encoding_references_holds_what_was_estimated(mini, options, dtype, side):
    config = mini(image_size=[side, side], options=options, dtype=dtype, num_frames=17)
    pipe = SamplingPipeline.from_config(config)
    clip = torch.zeros(3, 17, side, side)  # the padded copy of it stands for the one on the device
    found = peak_live_bytes(lambda: pipe.encode_reference(clip))
    assert found == pytest.approx(read_shapes(config).reference_activations(), rel=0.1)


def test_the_text_encoder_s_options_make_it_smaller(mini):
    def text(**options):
        options = {f"text_encoder.{name}": value for name, value in options.items()}
        return read_shapes(mini("configs/sample_adacache.py", options)).text_bytes()[0]

    layers = 24 * 3 * 4096 * 10240 + 24 * 4 * 4096 * 4096  # MLPs and attention
    wo = 24 * 4096 * 10240
    whole = text()
    assert text(dtype="bf16") == whole / 2
    assert text(dtype="fp16") == whole / 2 + 2 * wo  # kept in float32
    scales = 4 * 24 * (2 * 10240 + 4 * 4096)
    assert text(quantize="int8") == whole - 3 * (layers - wo) + scales
    assert text(quantize="int8", dtype="bf16") == whole / 2 - (layers - wo) + scales
    embeddings = 32128 * 4096
    assert text(stream=True, dtype="bf16") == pytest.approx(2 * (embeddings + 4096 * 10240), rel=1e-3)


def test_stages_are_those_of_the_run(mini):
    config = mini()
    assert list(by_name(config)) == ["text", "denoise", "decode"]
    assert list(by_name(config, text=False)) == ["denoise", "decode"]
    assert list(by_name(replace(config, reference_path=("a.png",)), text=False)) == ["references", "denoise", "decode"]


def test_the_cache_counts_where_it_is(mini):
    config = mini()
    assert by_name(config)["denoise"].cache == 163_840
    assert by_name(replace(config, cache=None))["denoise"].cache == 0
    in_cpu_memory = replace(config, cache=replace(config.cache, cache_device="cpu"))
    assert by_name(in_cpu_memory)["denoise"].cache == 0
    assert by_name(in_cpu_memory, device="cpu")["denoise"].cache == 163_840


def test_measured_memory_is_near_the_estimate(mini):
    """In 5 processes, decoding all frames at once took 1.25 to 1.28 times what its tensors hold.

    The rest is no tensor's: work space of kernels, and what the allocator keeps.
    """
    config = mini(image_size=[192, 192])  # 0.25 GB
    pipe = SamplingPipeline.from_config(config)
    latents = torch.zeros(1, 4, *read_shapes(config).latent_size)
    meter = StageMeter(torch.device("cpu"))
    with meter.stage("decode"):
        pipe.decode(latents, progress=False)
    if meter.is_upper_bound or not meter.stages:
        pytest.skip("this system does not tell the peaks of stages apart")
    estimate = by_name(config, device="cpu")["decode"].activations
    assert 0.8 < meter.stages["decode"] / estimate < 2
