"""The whole path on the small model: config, text, sampling, cache, decoding."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adacache.calibration.quality import psnr
from opensora.config.loading import load_config
from opensora.errors import ConfigError
from opensora.pipeline import SamplingError, SamplingPipeline, random_stream
from support import small_model

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ["a red circle moving fast to the right", "a still yellow star on a black background"]


@pytest.fixture(scope="module")
def pipe() -> SamplingPipeline:
    """The AdaCache config; tests that want the baseline switch the cache off."""
    return SamplingPipeline.from_config(load_config(small_model.ADACACHE, {"verbose": 0}))


def baseline(pipe: SamplingPipeline, **changes) -> SamplingPipeline:
    config = dataclasses.replace(pipe.config, **changes)
    return SamplingPipeline(pipe.model, pipe.vae, pipe.text_encoder.encoder, pipe.scheduler, config)


@pytest.fixture(scope="module")
def cached(pipe):
    return [pipe([prompt], seed=7) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def uncached(pipe):
    return [baseline(pipe)([prompt], seed=7) for prompt in PROMPTS]


def test_latents_are_as_before(pipe, golden):
    seeds = {
        "a red circle moving fast to the right on a gray background": 1,
        "a still yellow star on a drifting teal striped background": 2,
    }
    expected = load_file(golden / "small_model/latents.safetensors")
    for prompt, seed in seeds.items():
        # Thirty guided steps amplify the last bits in which CPUs differ; latents have a deviation of about 1.
        assert torch.allclose(baseline(pipe)([prompt], seed=seed).latents[0], expected[prompt], atol=0.02), prompt


def test_videos_are_frames_with_and_without_the_cache(cached, uncached):
    for output in (*cached, *uncached):
        assert output.videos[0].shape == (17, 64, 64, 3)
        assert output.videos[0].dtype == np.uint8


def test_about_half_of_the_steps_are_computed_and_the_video_stays_close(cached, uncached):
    for output, reference in zip(cached, uncached, strict=True):
        trace = output.traces[0]
        assert trace.num_steps == 30
        assert 12 <= trace.num_computed <= 18
        assert psnr(output.videos[0], reference.videos[0]) > 25
        assert reference.traces == [None]


def test_two_runs_in_a_row_are_equal(pipe, cached):
    again = pipe(PROMPTS[0], seed=7)
    assert torch.equal(again.latents, cached[0].latents)
    assert again.traces[0].computed_steps == cached[0].traces[0].computed_steps


def test_who_watches_is_shown_every_step_and_may_end_the_run(pipe, cached):
    seen = []
    watched = SamplingPipeline(
        pipe.model, pipe.vae, pipe.text_encoder, pipe.scheduler, pipe.config, pipe.cache, on_step=seen.append
    ).with_config(pipe.config)
    output = watched(PROMPTS[0], seed=7)
    assert [step.index for step in seen] == list(range(30))
    counts = [0, *(step.num_computed[0] for step in seen)]
    computed = [i for i in range(30) if counts[i + 1] > counts[i]]
    assert computed == output.traces[0].computed_steps
    assert torch.equal(seen[-1].latents, output.latents)
    assert torch.equal(output.latents, cached[0].latents)

    def stop(step):
        assert step.index == 0
        raise KeyboardInterrupt

    watched.on_step = stop
    with pytest.raises(KeyboardInterrupt):
        watched(PROMPTS[0], seed=7)


def test_a_run_after_an_exception_equals_a_fresh_one(pipe, cached):
    calls = 0

    def fail(*_):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise RuntimeError("interrupted")

    hook = pipe.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        pipe(PROMPTS[0], seed=7)
    hook.remove()
    assert torch.equal(pipe(PROMPTS[0], seed=7).latents, cached[0].latents)


def test_a_video_depends_on_its_seed_not_on_its_batch(pipe, uncached):
    together = baseline(pipe)(PROMPTS, seed=[7, 7])
    for latents, alone in zip(together.latents, uncached, strict=True):
        assert torch.allclose(latents, alone.latents[0], atol=1e-4)


def test_another_seed_gives_another_video(pipe, cached):
    other = pipe(PROMPTS[0], seed=8)
    assert not torch.allclose(other.latents, cached[0].latents, atol=0.1)


def test_scores_reach_the_text_encoder(pipe):
    seen = []
    scored = baseline(pipe, aes=6.5)
    encode = scored.text_encoder.encoder.encode
    scored.text_encoder = dataclasses.replace(scored.text_encoder, encoder=Recorder(encode, seen))
    scored.scheduler = type(scored.scheduler)(num_sampling_steps=1)
    scored(["A Red circle"], seed=0)
    assert seen == [["a red circle aesthetic score: 6.5."]]


class Recorder:
    """A text encoder that notes the prompts it is given."""

    def __init__(self, encode, seen):
        self._encode, self._seen = encode, seen

    def encode(self, prompts):
        self._seen.append(list(prompts))
        return self._encode(prompts)


# Half precision is slow on many CPUs: an image will do.
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_samples_are_near_those_of_float32(pipe, dtype):
    caption = "a still red circle on a black background"
    config = load_config(small_model.ADACACHE, {"dtype": dtype, "num_frames": 1, "verbose": 0})
    exact = pipe.with_config(dataclasses.replace(config, dtype="fp32"))(caption, seed=7)
    pipe = SamplingPipeline.from_config(config)
    assert pipe.model.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    output = pipe(caption, seed=7)
    assert psnr(output.videos[0], exact.videos[0]) > 30
    # Distances are float32 whatever the model's dtype: they are not among the few values bf16 can hold.
    distances = [record.distance for record in output.traces[0].records if record.distance is not None]
    assert any(float(torch.tensor(d).to(torch.bfloat16)) != d for d in distances)


def test_a_codebook_for_another_number_of_steps_is_pointed_out_once(pipe, caplog):
    with caplog.at_level(logging.WARNING):
        pipe.with_config(load_config(small_model.ADACACHE, {"num_sampling_steps": 50}))
    assert caplog.text.count("tuned for 30 sampling steps, but this run has 50") == 1


def test_official_flat_keys_mean_the_same(tmp_path, pipe, cached):
    codebook = pipe.cache.codebook
    keys = [*codebook.thresholds, 1.0]
    official = tmp_path / "official.py"
    official.write_text(
        (ROOT / small_model.FOLDER / "base.py")
        .read_text()
        .replace(
            'type="STDiT3",',
            'type="STDiT3", qk_norm=True, enable_flash_attn=True, enable_layernorm_kernel=True, num_sampling_steps=30,'
            f'do_cache=True, cache_res="t-attn", cache_loc={list(pipe.cache.metric_blocks)},'
            f"codebook={dict(zip(keys, codebook.rates, strict=True))}, apply_moreg=False, moreg_strides=[1],"
            "moreg_steps=(4, 26), moreg_hyp=(0.385, 8, 1, 2), mograd_mul=10,",
        )
    )
    output = SamplingPipeline.from_config(load_config(official, {"verbose": 0}))(PROMPTS[0], seed=7)
    assert output.traces[0].computed_steps == cached[0].traces[0].computed_steps
    assert torch.equal(output.latents, cached[0].latents)


def test_moreg_gives_the_moving_video_more_steps_than_the_still_one():
    pipe = SamplingPipeline.from_config(load_config(small_model.MOREG, {"verbose": 0}))
    fast, still = (pipe(prompt, seed=7).traces[0] for prompt in PROMPTS)
    assert fast.num_computed > still.num_computed


def test_the_step_count_has_one_source():
    config = load_config(small_model.ADACACHE, {"num_sampling_steps": 8, "verbose": 0})
    trace = SamplingPipeline.from_config(config)(PROMPTS[0], seed=7).traces[0]
    assert trace.num_steps == len(trace.records) == 8
    assert trace.computed_steps[:2] == [0, 1]
    assert trace.computed_steps[-2:] == [6, 7]


def test_non_finite_latents_stop_the_run_naming_the_step(pipe):
    broken = baseline(pipe)
    calls = 0

    def poison(_, __, output):
        nonlocal calls
        calls += 1
        return output * float("nan") if calls == 3 else output

    hook = pipe.model.register_forward_hook(poison)
    with pytest.raises(SamplingError, match="NaN or infinite in step 3 of 30"):
        broken(PROMPTS[0], seed=7)
    hook.remove()


def test_no_prompts_are_refused(pipe):
    with pytest.raises(SamplingError, match="no prompts"):
        pipe([])


def test_other_lengths_and_sizes_sample(pipe):
    longer = baseline(pipe, num_frames=34, height=48, width=80)
    longer.scheduler = type(longer.scheduler)(num_sampling_steps=2)
    assert longer(PROMPTS[0], seed=0).videos[0].shape == (34, 48, 80, 3)


def test_an_image_is_a_video_of_one_frame(pipe):
    image = baseline(pipe, num_frames=1)
    image.scheduler = type(image.scheduler)(num_sampling_steps=2)
    assert image(PROMPTS[0], seed=0).videos[0].shape == (1, 64, 64, 3)


def test_a_continued_clip_of_compat_depends_on_its_seed_alone(pipe):
    """Upstream draws from the posterior of the clip before, of the whole batch and without a seed."""
    flags = {"loop": 2, "num_frames": 34, "compat": True, "num_sampling_steps": 2, "verbose": 0}
    looped = pipe.with_config(load_config(small_model.SAMPLE, flags))
    together = looped(PROMPTS, seed=[7, 8])
    alone = looped(PROMPTS[1:], seed=[8])
    assert (together.latents[1] - alone.latents[0]).abs().mean() < 1e-3  # the rounding of a pixel may differ


@pytest.mark.parametrize(("compat", "size"), [(False, (8, 9)), (True, (7, 8))])
def test_a_reference_becomes_as_large_as_the_noise(pipe, compat, size):
    """Upstream rounds sides down."""
    odd = pipe.with_config(load_config(small_model.SAMPLE, {"image_size": [60, 66], "compat": compat}))
    reference = odd.encode_reference(np.zeros((1, 60, 66, 3), np.uint8), torch.Generator())
    assert reference.shape[2:] == size
    latents = odd.sample_latents(PROMPTS[:1], 0, False, [[reference]], ["0"])
    assert torch.equal(latents[0, :, 0], reference[:, 0])


def test_one_seed_per_prompt_is_required(pipe):
    with pytest.raises(SamplingError, match="got 1 seeds for 2 prompts"):
        pipe(PROMPTS, seed=[1])


def test_a_cache_that_does_not_fit_the_model_is_refused_when_the_pipeline_is_made(pipe):
    deep = dataclasses.replace(pipe.cache, metric_blocks=(13,))
    with pytest.raises(ConfigError, match="metric_blocks"):
        SamplingPipeline(pipe.model, pipe.vae, pipe.text_encoder.encoder, pipe.scheduler, pipe.config, deep)


def test_a_text_encoder_of_another_length_is_refused():
    config = load_config(small_model.SAMPLE, None, {"text_encoder.model_max_length": 20})
    with pytest.raises(ConfigError, match="model_max_length is 20, but the transformer .* reads 24"):
        SamplingPipeline.from_config(config)


def test_what_is_drawn_besides_the_noise_of_a_video_never_repeats_it(pipe, monkeypatch):
    drawn = []

    def denoise(model, text, z, options):
        drawn.append(torch.randn(8, generator=options.generator[0]))
        return z

    monkeypatch.setattr(pipe.scheduler, "denoise", denoise)
    for loop in (0, 1):
        drawn.append(pipe.sample_latents(["a"], 7, loop=loop, progress=False).flatten()[:8])
    streams = [(7, "reference", 0), (7, "reference", 1), (7, "continued clip", 1), (8, "continued clip", 1)]
    drawn += [torch.randn(8, generator=random_stream(*stream)) for stream in streams]
    assert len({tuple(values.tolist()) for values in drawn}) == len(drawn) == 8
