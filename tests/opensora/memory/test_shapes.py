from __future__ import annotations

import json
from dataclasses import replace

import pytest

from opensora.errors import ConfigError
from opensora.memory.shapes import read_shapes
from opensora.pipeline import SamplingPipeline


@pytest.fixture(scope="module")
def pipe(mini) -> SamplingPipeline:
    return SamplingPipeline.from_config(mini())


@pytest.mark.parametrize("frames", [1, 4, 17, 18, 34, 51, 60])
@pytest.mark.parametrize("chunk", [17, None])
def test_latents_have_the_size_that_the_autoencoder_gives_them(pipe, mini, frames, chunk, monkeypatch):
    monkeypatch.setattr(pipe.vae, "config", replace(pipe.vae.config, micro_frame_size=chunk))
    config = mini(num_frames=frames, image_size=[66, 100], options={"vae.micro_frame_size": chunk})
    floored = replace(config, compat=True)
    assert list(read_shapes(floored).latent_size) == pipe.vae.get_latent_size([frames, 66, 100])
    assert list(read_shapes(config).latent_size) == pipe.vae.get_latent_size([frames, 72, 104])


def test_noise_has_that_size(pipe, mini):
    for compat in (False, True):
        config = replace(mini(image_size=[66, 100]), compat=compat)
        noise, _ = pipe.with_config(config)._noise_and_references([1], [], [], 0)
        assert tuple(noise.shape[2:]) == read_shapes(config).latent_size


def test_latents_of_the_published_autoencoder_have_their_size(mini, golden, tmp_path):
    """Its config.json names neither of the factors."""
    (tmp_path / "config.json").write_text('{"vae_2d": {}}')
    config = mini(options={"vae.from_pretrained": str(tmp_path)})
    for row in json.loads((golden / "vae/latent_sizes.json").read_text())["table"]:
        if None in row["input"]:  # sizes left open concern training only
            continue
        frames, height, width = row["input"]
        video = replace(config, num_frames=frames, height=height, width=width, compat=True)
        assert list(read_shapes(video).latent_size) == row["latent"]
        unchunked = replace(video, vae=replace(config.vae, micro_frame_size=None))
        assert list(read_shapes(unchunked).latent_size) == row["latent_nochunk"]


def test_other_models_than_the_published_ones_must_be_there(mini):
    with pytest.raises(
        ConfigError, match=r"^vae.from_pretrained='some/vae' is not on this machine.*OpenSora-VAE-v1.2$"
    ):
        read_shapes(mini(options={"vae.from_pretrained": "some/vae"}))


def test_a_config_json_without_sense_is_named(mini, tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": "wide"}')
    with pytest.raises(ConfigError, match=r"config.json cannot be used: "):
        read_shapes(mini(options={"model.from_pretrained": str(tmp_path)}))
    (tmp_path / "config.json").write_text('{"vae_2d": {"autoencoder_kl": {"width": 1}}}')
    with pytest.raises(ConfigError, match=r"^config.json of .* cannot be used: "):
        _ = read_shapes(mini(options={"vae.from_pretrained": str(tmp_path)})).autoencoder
