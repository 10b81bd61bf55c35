"""Open-Sora-Plan's autoencoder against vectors of its reference implementation, and its published sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from opensora.errors import WeightsError
from opensora.models.vae.causal import SCALE, CausalTiling, CausalVAE, CausalVAEConfig, time_chunks

GOLDEN = Path(__file__).parents[2] / "golden"
FOLDER = GOLDEN / "open_sora_plan" / "vae"
CASES = json.loads((GOLDEN / "open_sora_plan" / "meta.json").read_text())["vae_cases"]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def vae() -> CausalVAE:
    return CausalVAE.from_pretrained(FOLDER, dtype=torch.float32)


@pytest.fixture(scope="module")
def vectors() -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in load_file(FOLDER / "io.safetensors").items()}


def decoded(vae: CausalVAE, z: torch.Tensor, num_frames: int) -> torch.Tensor:
    return torch.cat(list(vae.decode_chunks(z * SCALE, num_frames)), dim=2)


@pytest.mark.parametrize("case", CASES)
def test_it_meets_the_reference(vae, vectors, case):
    about = CASES[case]
    vae.tiling = None
    if "tile_latent_min_size" in about:
        vae.tiling = CausalTiling(
            about["tile_latent_min_size"], about["tile_latent_min_size_t"], about["tile_overlap_factor"]
        )
    posterior = vae.posterior(vectors[f"{case}.video"])
    torch.testing.assert_close(posterior.mean, vectors[f"{case}.mean"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(posterior.logvar, vectors[f"{case}.logvar"], atol=TOLERANCE, rtol=0)
    video = decoded(vae, vectors[f"{case}.z"], about["frames"])
    torch.testing.assert_close(video, vectors[f"{case}.dec"], atol=TOLERANCE, rtol=0)
    assert vae.get_latent_size(vectors[f"{case}.video"].shape[2:]) == about["latent_shape"][2:]


def test_the_published_autoencoder_has_these_tensors():
    with torch.device("meta"):
        state = CausalVAE(CausalVAEConfig()).state_dict()
    manifest = json.loads((GOLDEN / "manifests" / "open_sora_plan_v110_vae.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in state.items()} == manifest["tensors"]
    assert sum(tensor.numel() for tensor in state.values()) == manifest["total_elements"]
    assert CausalVAEConfig.from_dict(manifest["config"]) == CausalVAEConfig()


def test_encoding_scales_the_mean_and_draws_by_seed(vae, vectors):
    vae.tiling = None
    video = vectors["f5.video"]
    torch.testing.assert_close(vae.encode(video), vectors["f5.mean"] * SCALE, atol=TOLERANCE, rtol=0)
    draws = [vae.encode(video, True, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_tensors_of_training_are_left_aside(tmp_path, vectors):
    (tmp_path / "config.json").write_text((FOLDER / "config.json").read_text())
    weights = load_file(FOLDER / "model.safetensors")
    save_file({**weights, "loss.logvar": torch.zeros(1)}, tmp_path / "model.safetensors")
    CausalVAE.from_pretrained(tmp_path)
    save_file({**weights, "lost.logvar": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"unknown lost\.logvar"):
        CausalVAE.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("encoder_attention", "AttnBlock3D"),
        ("encoder_temporal_downsample", ["", "TimeDownsample2x", "TimeDownsample2x", ""]),
        ("decoder_spatial_upsample", ["", "SpatialUpsample2x", "SpatialUpsample2x", ""]),
        ("hidden_size_mult", [1, 2]),
        ("hidden_size", "128"),
        ("hidden_size", 20),
    ],
)
def test_other_autoencoders_are_refused(tmp_path, entry, value):
    config = json.loads((FOLDER / "config.json").read_text()) | {entry: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"config\.json cannot be used"):
        CausalVAE.check_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 5, 16), r"must be \(B, 3, F, H, W\)"),
        ((1, 4, 5, 16, 16), r"must be \(B, 3, F, H, W\)"),
        ((1, 3, 6, 16, 16), "choose 5 or 9"),
        ((1, 3, 5, 16, 12), "multiples of 8"),
    ],
)
def test_videos_that_cannot_be_encoded(vae, shape, message):
    with pytest.raises(ValueError, match=message):
        vae.encode(torch.zeros(shape))


def test_latents_of_another_length_are_refused(vae):
    with pytest.raises(ValueError, match="17 frames have 5 latent frames, got 4"):
        next(vae.decode_chunks(torch.zeros(1, 4, 4, 2, 2), 17))
    with pytest.raises(ValueError, match="latents must be"):
        next(vae.decode_chunks(torch.zeros(1, 3, 5, 2, 2), 17))


@pytest.mark.parametrize("arguments", [{"tile_frames": 1}, {"overlap": 1.0}, {"tile_size": 1, "overlap": 0.5}])
def test_tiles_that_do_not_move_on_are_refused(arguments):
    with pytest.raises(ValueError, match="tile"):
        CausalTiling(**arguments)


def test_chunks_share_a_frame():
    assert time_chunks(17, 17) == [(0, 17)]
    assert time_chunks(17, 8) == [(0, 8), (7, 15), (14, 17)]
    assert time_chunks(1, 17) == [(0, 1)]
