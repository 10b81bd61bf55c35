"""What decides how a video looks: each entry of a config changes the identity of a video, or is in a list."""

from __future__ import annotations

import dataclasses

import pytest

from opensora.cli.identity import config_hash, sample_identity
from opensora.cli.plan import Sample
from opensora.config.loading import load_config
from support import small_model

PLAIN = load_config(small_model.SAMPLE)
CACHED = load_config(small_model.ADACACHE)
WEIGHTS = {"model": "a", "vae": "b", "text_encoder": "c"}

INFLUENCE = {
    "model": dataclasses.replace(PLAIN.model, type="STDiT3-XL/2"),
    "vae": dataclasses.replace(PLAIN.vae, micro_batch_size=1),
    "text_encoder": dataclasses.replace(PLAIN.text_encoder, model_max_length=7),
    "scheduler": dataclasses.replace(PLAIN.scheduler, cfg_scale=3.0),
    "cache": CACHED.cache,
    "height": 32,
    "width": 32,
    "num_frames": 34,
    "fps": 12,
    "save_fps": 12,
    "dtype": "fp16",
    "compile": True,
    "multi_resolution": None if PLAIN.multi_resolution else "STDiT2",
    "negative_prompt": "blurry",
    "aes": 6.5,
    "flow": 2.0,
    "camera_motion": "pan left",
    "llm_refine": True,
    "loop": 2,
    "align": None,
    "compat": True,
    "crf": 30,
    "watermark": True,
}
# Only together with another entry.
TOGETHER = {
    "watermark_text": ("made here", {"watermark": True}),
    "llm_model": ("another", {"llm_refine": True}),
    "condition_frame_length": (10, {"loop": 2}),
    "condition_frame_edit": (0.5, {"loop": 2}),
}
NO_INFLUENCE = {
    "path": "elsewhere.py",
    "prompt": ("another",),
    "prompt_path": "another.txt",
    "prompt_as_path": True,
    "start_index": 1,
    "end_index": 2,
    "reference_path": ("a.png",),
    "mask_strategy": ("0",),
    "save_dir": "elsewhere",
    "logdate_dir": True,
    "sample_name": "another",
    "save_frames": True,
    "preview": "webp",
    "contact_sheet": True,
    "verbose": 0,
    "resample": True,
    "weights_dir": "elsewhere",
    "text_cache": "off",
    "low_memory": True,
    "batch_size": 3,
    "device": "cpu",
    "seed": 1,
    "frame_interval": 3,
    "llm_endpoint": "http://localhost:8000/v1",
    "num_sample": 2,
    "sequence_parallel": 2,
    "guidance_parallel": 2,
    "draft": 2,
    "final": ("7",),
    "calibration": "another.json",
    "replay": "another.json",
    "speedup": 2.0,
    "max_steps_computed": 8,
    "min_psnr": 30.0,
}


def changed(entries: dict, **more: object) -> str:
    """The hash of the plain config with other entries."""
    return config_hash(dataclasses.replace(PLAIN, **entries, **more))


def test_every_entry_of_a_config_is_in_one_of_the_tables():
    assert {*INFLUENCE, *TOGETHER, *NO_INFLUENCE} == {field.name for field in dataclasses.fields(PLAIN)}


@pytest.mark.parametrize("name", INFLUENCE)
def test_an_entry_that_decides_how_a_video_looks(name):
    assert changed({name: INFLUENCE[name]}) != config_hash(PLAIN)


@pytest.mark.parametrize("name", TOGETHER)
def test_an_entry_that_decides_only_beside_another(name):
    value, others = TOGETHER[name]
    assert changed({name: value}) == config_hash(PLAIN)
    assert changed({name: value}, **others) != changed(others)


@pytest.mark.parametrize("name", NO_INFLUENCE)
def test_an_entry_that_says_where_and_how_or_has_done_its_work(name):
    assert getattr(PLAIN, name) != NO_INFLUENCE[name]
    assert changed({name: NO_INFLUENCE[name]}) == config_hash(PLAIN)


def test_where_weights_and_the_cache_lie_is_no_part_of_it():
    moved = {name: dataclasses.replace(getattr(PLAIN, name), from_pretrained="x") for name in WEIGHTS}
    assert changed(moved) == config_hash(PLAIN)
    elsewhere = dataclasses.replace(CACHED, cache=dataclasses.replace(CACHED.cache, cache_device="cpu"))
    assert config_hash(elsewhere) == config_hash(CACHED)


def identity(prompt: str = "a", seed: int = 1, config=PLAIN, weights=WEIGHTS, batch=(), **more: object) -> str:
    sample = Sample(0, prompt, seed, config, **more)
    return sample_identity(sample, config_hash(config), weights, [sample, *batch])


def test_a_sample_is_its_prompt_seed_references_weights_and_config():
    all_different = [
        identity(),
        identity("b"),
        identity(seed=2),
        identity(config=CACHED),
        identity(weights={**WEIGHTS, "vae": "x"}),
        identity(reference_hashes=("x",)),
        identity(reference_hashes=("x",), mask_strategy="0"),
    ]
    assert len(set(all_different)) == len(all_different)
    assert identity(number=1, stem="x", refined="b", is_due=True) == identity()
    assert identity(weights=dict(reversed(WEIGHTS.items()))) == identity()


def test_the_batch_counts_where_it_shares_a_schedule():
    shared = dataclasses.replace(CACHED, cache=dataclasses.replace(CACHED.cache, schedule="batch"))
    mates = [[Sample(1, "b", seed, shared)] for seed in (1, 2)]
    assert len({identity(config=shared, batch=batch) for batch in ([], *mates)}) == 3
    assert identity(batch=mates[0]) == identity()


def test_folders_of_before_go_on():
    """These hashes stand in manifests: where they change, all finished videos are made again."""
    assert [config_hash(PLAIN), config_hash(CACHED)] == ["2bf62e70e7352fd0", "f398b89dfdb4950c"]
    assert identity() == "b6a4f926e3789694"
