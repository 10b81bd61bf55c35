"""The v1.2 VAE against the reference vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from opensora.models.vae import VideoAutoencoderConfig, VideoAutoencoderPipeline


@pytest.fixture(scope="module")
def vae(golden: Path) -> VideoAutoencoderPipeline:
    return VideoAutoencoderPipeline.from_pretrained(golden / "vae/model")


@pytest.fixture(scope="module")
def inputs(golden: Path) -> dict[str, torch.Tensor]:
    return {name: t.float() for name, t in load_file(golden / "vae/inputs.safetensors").items()}


@pytest.fixture(scope="module")
def outputs(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "vae/outputs.safetensors")


@pytest.mark.parametrize("frames", [1, 17, 20, 34, 51])
def test_latent_means_equal_the_reference(vae, inputs, outputs, frames):
    z = vae.encode(inputs["video"][:, :, :frames], sample_posterior=False)
    assert (z - outputs[f"z_mode_{frames}"]).abs().max() <= 1e-4


def test_a_batch_of_two_equals_the_reference(vae, inputs, outputs):
    z = vae.encode(inputs["video_b2"], sample_posterior=False)
    assert (z - outputs["z_mode_b2"]).abs().max() <= 1e-4
    assert (vae.decode(outputs["z_mode_b2"], 18) - outputs["dec_b2"]).abs().max() <= 5e-4


def test_sampled_latents_equal_the_reference_for_the_same_noise(vae, inputs, outputs, monkeypatch):
    noises = iter([inputs[f"noise_{i}"] for i in range(7)])
    monkeypatch.setattr(torch, "randn", lambda *_, **__: next(noises))
    z = vae.encode(inputs["video"][:, :, :20])
    assert (z - outputs["z_sampled"]).abs().max() <= 1e-4


def test_decoded_frames_equal_the_reference(vae, outputs):
    decoded = vae.decode(outputs["z_mode_51"], 51)
    assert (decoded - outputs["dec_51"]).abs().max() <= 5e-4
    for frames in (17, 34):
        prefix = vae.decode(outputs[f"z_mode_{frames}"], frames)
        assert (prefix - outputs["dec_51"][:, :, :frames]).abs().max() <= 5e-4


def test_an_incomplete_last_chunk_equals_the_reference(vae, outputs):
    assert (vae.decode(outputs["z_mode_20"], 20)[:, :, 17:] - outputs["dec_20_tail"]).abs().max() <= 5e-4
    assert (vae.decode(outputs["z_mode_1"], 1) - outputs["dec_1"]).abs().max() <= 5e-4


def test_arbitrary_latents_decode_as_the_reference(vae, inputs, outputs):
    assert (vae.decode(inputs["random_latent"], 20) - outputs["dec_random_latent"]).abs().max() <= 5e-4


def test_without_chunks_the_whole_clip_is_coded_at_once(golden, inputs, outputs):
    vae = VideoAutoencoderPipeline.from_pretrained(golden / "vae/model", micro_frame_size=None)
    z = vae.encode(inputs["video"][:, :, :10], sample_posterior=False)
    assert (z - outputs["z_mode_nochunk"]).abs().max() <= 1e-4
    assert (vae.decode(z, 10) - outputs["dec_nochunk"]).abs().max() <= 5e-4


def test_the_temporal_part_alone_equals_the_reference(vae, outputs):
    latents = outputs["xz_mode_20"][:, :, :17]
    temporal = vae.temporal_vae
    with torch.no_grad():
        posterior = temporal.encode(latents)
        decoded = temporal.decode(posterior.mode(), 17)
    mean, logvar = outputs["temporal_moments_first_chunk"].chunk(2, 1)
    assert (posterior.mode() - mean).abs().max() <= 1e-4
    assert (posterior.std - torch.exp(0.5 * logvar)).abs().max() <= 1e-4
    assert (decoded - outputs["temporal_dec_first_chunk"]).abs().max() <= 5e-4


def test_latent_sizes_equal_the_reference_table(golden):
    def tiny(**changes):
        config = VideoAutoencoderConfig.from_dict(
            {**json.loads((golden / "vae/model/config.json").read_text()), **changes}
        )
        with torch.device("meta"):
            return VideoAutoencoderPipeline(config)

    chunked, whole = tiny(), tiny(micro_frame_size=None)
    table = json.loads((golden / "vae/latent_sizes.json").read_text())["table"]
    assert any(None in row["input"] for row in table)
    for row in table:
        assert chunked.get_latent_size(row["input"]) == row["latent"]
        assert whole.get_latent_size(row["input"]) == row["latent_nochunk"]


def test_latents_of_another_length_are_refused(vae, outputs):
    with pytest.raises(ValueError, match="51 frames have 15 latent frames, got 5"):
        vae.decode(outputs["z_mode_17"], 51)


def test_full_size_model_matches_the_published_manifest(golden):
    manifest = json.loads((golden / "manifests/opensora_vae_v1_2.json").read_text())["tensors"]
    with torch.device("meta"):
        vae = VideoAutoencoderPipeline(VideoAutoencoderConfig.from_dict({}))
    assert {name: list(t.shape) for name, t in vae.state_dict().items()} == {
        name: shape for name, (shape, _, _) in manifest.items()
    }


def test_saved_config_reads_back(vae):
    assert VideoAutoencoderConfig.from_dict(vae.config.to_dict()) == vae.config
