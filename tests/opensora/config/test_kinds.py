"""Configs of Latte and Open-Sora-Plan: their sections, and what does not go with them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from opensora.cli.plan import plan_samples
from opensora.config.loading import load_config
from opensora.config.model_families import family_of
from opensora.config.schema import (
    SECTIONS,
    CausalVAEConfig,
    DiffusionSchedulerConfig,
    ImageVAEConfig,
    LatteModelConfig,
    types_of,
)
from opensora.config.target import conditions_of, mismatch
from opensora.errors import ConfigError
from opensora.prompts.run_prompts import all_prompts
from opensora.registry import _PROVIDERS, MODELS, SCHEDULERS
from support import small_model

ROOT = Path(__file__).resolve().parents[3]
MINI = ROOT / small_model.SAMPLE


def error_of(load, *arguments, **keywords) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value).split(": ", 1)[1]


def test_sections_are_read_into_the_dataclass_of_their_type(latte, plan):
    config = latte()
    assert isinstance(config.model, LatteModelConfig) and isinstance(config.vae, ImageVAEConfig)
    assert isinstance(config.scheduler, DiffusionSchedulerConfig)
    assert (config.scheduler.type, config.scheduler.solver, config.scheduler.clip_sample) == ("ddim", "ddim", None)
    assert isinstance(plan().vae, CausalVAEConfig) and plan().scheduler.solver == "pndm"


def test_every_type_is_described_and_can_be_built():
    known = {name for names in (*_PROVIDERS["model"].values(), *_PROVIDERS["scheduler"].values()) for name in names}
    assert known == {name for classes in SECTIONS.values() for cls in classes for name in types_of(cls)}
    for cls in SECTIONS["model"]:
        for name in types_of(cls):
            assert family_of(name).vae in SECTIONS["vae"] and family_of(name).scheduler in SECTIONS["scheduler"]


@pytest.mark.parametrize("name", ["latte", "open_sora_plan"])
def test_the_configs_of_the_published_models(name):
    config = load_config(ROOT / f"configs/{name}/sample.py")
    steps, calls = {"latte": (50, 50), "open_sora_plan": (150, 159)}[name]
    assert config.scheduler.num_sampling_steps == steps
    assert (config.height, config.width, config.scheduler.cfg_scale) == (512, 512, 7.5)

    assert config.scheduler.num_model_calls == calls
    message = error_of(load_config, ROOT / f"configs/{name}/sample_calibrated.py")
    assert f"there is no file outputs/calibration/{name}/calibration.json" in message
    assert f"sample_calibrated.py --output outputs/calibration/{name}'" in message


def test_flags_reach_their_sections(latte, latte_folder):
    config = latte(num_sampling_steps=9, cfg_scale=2.0, negative_prompt="blurry", seed=3, ckpt_path=str(latte_folder))
    assert (config.scheduler.num_sampling_steps, config.scheduler.cfg_scale) == (9, 2.0)
    assert (config.negative_prompt, config.seed) == ("blurry", 3)
    assert config.model.from_pretrained == str(latte_folder)


def test_low_memory_sets_what_the_pieces_have(latte, plan):
    assert latte(low_memory=True).vae.micro_batch_size == 1
    assert plan(low_memory=True).vae.tiling is True
    assert plan(low_memory=True).text_encoder.dtype == "bf16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model.type": "Late"}, "model.type must be one of 'STDiT3-XL/2', 'STDiT3', 'Latte', 'LatteT2V', got 'Late'"),
        ({"scheduler.type": 3}, "scheduler.type must be one of 'rflow', 'ddim', 'pndm', 'euler', 'heun', got 3"),
        ({"model.depth": 3}, "unknown key 'depth' in 'model'"),
        ({"model.qk_norm": True}, "model.qk_norm is an entry of type 'STDiT3-XL/2' and 'STDiT3', not of 'Latte'"),
        ({"scheduler.solver": "adams"}, "scheduler.solver is an entry of type 'rflow', not of 'ddim'"),
        ({"vae.tile_size": 8}, "vae.tile_size is an entry of type 'OpenSoraVAE_V1_2', not of 'AutoencoderKL'"),
        ({"scheduler.beta_schedule": "cosine"}, "scheduler.beta_schedule must be one of 'linear', "),
        ({"scheduler.num_sampling_steps": 0}, "scheduler.num_sampling_steps must be at least 1, got 0"),
        (
            {"scheduler.num_sampling_steps": 1001},
            "scheduler.num_sampling_steps is 1001, but the model was trained on 1000 timesteps; set it to at most 1000",
        ),
        ({"scheduler.skip_prk_steps": True}, "scheduler.skip_prk_steps is an option of 'pndm', not of 'ddim'"),
        (
            {"scheduler.type": "pndm", "scheduler.num_sampling_steps": 3},
            "scheduler.num_sampling_steps must be at least 4 with 'pndm', got 3; or set scheduler.skip_prk_steps=True",
        ),
        (
            {"scheduler.type": "rflow"},
            "scheduler.type 'rflow' cannot be used with model.type 'Latte' (Latte); set it to 'ddim' or 'pndm' or "
            "'euler' or 'heun'",
        ),
        (
            {"vae.type": "CausalVAE", "vae.micro_batch_size": None},
            "vae.micro_batch_size is an entry of type 'OpenSoraVAE_V1_2' and 'AutoencoderKL', not of 'CausalVAE'",
        ),
        (
            {"vae.type": "OpenSoraVAE_V1_2"},
            "vae.type 'OpenSoraVAE_V1_2' cannot be used with model.type 'Latte' (Latte); set it to 'AutoencoderKL'",
        ),
        (
            {"model.type": "LatteT2V"},
            "vae.type 'AutoencoderKL' cannot be used with model.type 'LatteT2V' (Open-Sora-Plan); set it to "
            "'CausalVAE'",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(latte, options, message):
    assert error_of(latte, options).startswith(message)


def test_open_sora_s_model_refuses_the_others_pieces():
    def load(options):
        return load_config(MINI, None, options)

    message = "'AutoencoderKL' cannot be used with model.type 'STDiT3' (Open-Sora); set it to 'OpenSoraVAE_V1_2'"
    changed = {"vae": {"_delete_": True, "type": "AutoencoderKL", "from_pretrained": "x"}}
    assert error_of(load, changed) == f"vae.type {message}"
    changed = {"scheduler": {"_delete_": True, "type": "ddim"}}
    assert "cannot be used with model.type 'STDiT3' (Open-Sora); set it to 'rflow'" in error_of(load, changed)
    assert error_of(load, {"negative_prompt": "blurry"}).startswith(
        "negative_prompt does not work with Open-Sora (model.type 'STDiT3'): it guides away from an empty caption"
    )


@pytest.mark.parametrize(
    "flags",
    [
        {"reference_path": ["a.png"]},
        {"mask_strategy": ["0"]},
        {"loop": 2},
        {"compat": True},
        {"aes": 7.0},
        {"flow": 5.0},
        {"camera_motion": "pan left"},
        {"compile": True},
        {"multi_resolution": "STDiT2"},
    ],
    ids=str,
)
def test_conditions_that_these_models_do_not_know(latte, plan, flags):
    ((name, _),) = flags.items()
    assert error_of(latte, flags).startswith(f"{name} does not work with Latte (model.type 'Latte'): ")
    assert error_of(plan, flags).startswith(f"{name} does not work with Open-Sora-Plan (model.type 'LatteT2V'): ")


def test_a_prompt_s_own_references_are_refused_too(latte, tmp_path):
    lines = [{"prompt": "a star", "reference_path": "a.png"}, {"prompt": "a circle", "mask_strategy": "0"}]
    lines += [{"prompt": "a square", "num_sampling_steps": 4, "seed": 7}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = latte(prompt_path=str(tmp_path / "prompts.jsonl"))
    samples = plan_samples(config, all_prompts(config), lambda overrides, where: latte(**overrides))
    assert samples[0].problem.startswith("prompt 0: reference_path does not work with Latte")
    assert samples[1].problem.startswith("prompt 1: mask_strategy does not work with Latte")
    assert samples[2].problem is None and samples[2].config.scheduler.num_sampling_steps == 4


@pytest.mark.parametrize("frames", [1, 5, "5"])
def test_lengths_that_latte_makes(latte, frames):
    assert latte(num_frames=frames).num_frames == int(frames)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (16, "makes videos of 5 frames (or 1, an image); set it to that"),
        ("2s", "num_frames='2s' is a duration of Open-Sora; give this model a number of frames"),
    ],
)
def test_lengths_that_latte_does_not_make(latte, frames, message):
    assert error_of(latte, num_frames=frames).endswith(message)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (16, "num_frames is 16, which a CausalVAE cannot make; the nearest are 13 and 17"),
        (2, "num_frames is 2, which a CausalVAE cannot make; the nearest are 1 and 5"),
        (21, "makes videos of 17 frames (or 1, an image); set it to that"),
    ],
)
def test_lengths_that_open_sora_plan_does_not_make(plan, frames, message):
    assert error_of(plan, num_frames=frames).endswith(message)
    assert [plan(num_frames=good).num_frames for good in (1, 17)] == [1, 17]


def test_an_image_is_measured_in_space(latte, plan):
    for load in (latte, plan):
        by_time, by_space = (
            {"cache": {"codebook": "fast30", "metric": metric, "metric_blocks": [0]}, "num_frames": 1}
            for metric in ("t-attn", "s-attn")
        )
        assert "an image does not have; set cache.metric='s-attn', or num_frames above 1" in error_of(load, **by_time)
        assert load(**by_space).cache.metric == "s-attn"


def test_the_length_of_a_model_that_is_not_here_is_not_known():
    published = ROOT / "configs/open_sora_plan/sample.py"
    assert load_config(published, {"num_frames": 221}).num_frames == 221
    assert "the nearest are 61 and 65" in error_of(load_config, published, {"num_frames": 64})


def test_sides_are_whole_patches(latte):
    assert latte(image_size=[48, 80]).height == 48
    assert error_of(latte, image_size=[48, 72]).endswith("needs sides that are multiples of 16")


def test_conditions_of_a_calibration(latte, plan):
    assert conditions_of(latte()) == {"image_size": [64, 64], "num_frames": 5, "cfg_scale": 5.0, "solver": "ddim"}
    made_for = conditions_of(plan())
    assert mismatch(made_for, plan()) is None
    assert (
        mismatch(made_for, plan({"scheduler.type": "euler"})) == "it was made for solver pndm, but this run has euler"
    )


def test_reading_a_config_imports_nothing_heavy(latte):
    code = (
        "import sys; from opensora.config.loading import load_config; load_config(sys.argv[1]); "
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "configs/latte/sample.py")], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_configs_are_plain_values(latte, plan):
    for config in (latte(), plan()):
        assert json.dumps(dataclasses.asdict(dataclasses.replace(config, cache=None)))
    assert MODELS.name == "model" and SCHEDULERS.name == "scheduler"
