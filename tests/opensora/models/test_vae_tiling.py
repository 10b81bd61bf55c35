"""Tiled coding gives what coding in one piece gives, without seams."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from opensora.models.vae import TilingConfig, VideoAutoencoderPipeline
from opensora.models.vae.layerwise import Stored, convolve, statistics, windows
from opensora.models.vae.vae import open_sora_vae_v1_2
from support import small_model

MINI = Path(__file__).parents[3] / small_model.FOLDER / "vae"
LEVELS = 127.5  # 8-bit levels per unit of [-1, 1]


@pytest.fixture(scope="module")
def vae(golden: Path) -> VideoAutoencoderPipeline:
    return VideoAutoencoderPipeline.from_pretrained(golden / "vae/model", dtype=torch.float64)


def latents(vae: VideoAutoencoderPipeline, frames: int, height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 4, vae.latent_frames(frames), height, width, generator=generator, dtype=vae.dtype)


def tiled(vae: VideoAutoencoderPipeline, tile: int) -> VideoAutoencoderPipeline:
    """The same modules, in tiles of ``tile`` latents."""
    other = copy.copy(vae)
    other.tiling = TilingConfig(tile)
    return other


@pytest.mark.parametrize("size", [0, -3, 2.5, True, "32"])
def test_a_tile_has_a_positive_number_of_latents(size):
    with pytest.raises(ValueError, match="tile_size must be a positive number of latents"):
        TilingConfig(size)


@pytest.mark.parametrize(("height", "width", "size"), [(9, 13, 4), (1, 7, 3), (8, 8, 8), (33, 90, 32)])
def test_windows_cover_every_pixel_once(height, width, size):
    covered = torch.zeros(height, width, dtype=torch.int)
    for window in windows(height, width, size):
        part = covered[window]
        assert 0 < part.shape[0] <= size and 0 < part.shape[1] <= size
        part += 1
    assert (covered == 1).all()


def test_windows_are_about_equally_large():
    assert [rows.stop - rows.start for rows, _ in windows(33, 1, 32)] == [16, 17]


def test_statistics_by_window_are_those_of_the_whole_map():
    values = torch.randn(2, 8, 3, 9, 7, dtype=torch.float64) * 5 + 100
    norm = nn.GroupNorm(4, 8, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    normalize = statistics(norm, Stored(values), 4).normalization(nn.Identity())
    torch.testing.assert_close(normalize(values), norm(values), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("height", "width"), [(12, 10), (13, 11)])
def test_a_strided_layer_in_tiles_equals_the_whole_one(height, width):
    layer = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2, 3, 3, stride=2)).double()
    values = torch.randn(1, 2, height, width, dtype=torch.float64)
    tiled = convolve(layer, Stored(values), 3, downscale=2).values
    torch.testing.assert_close(tiled, layer(values)[..., : height // 2, : width // 2], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("frames", "height", "width", "batch", "tile"), [(20, 9, 13, 1, 4), (1, 5, 21, 2, 8), (17, 3, 2, 2, 1)]
)
def test_tiled_decoding_is_exact(vae, frames, height, width, batch, tile):
    z = latents(vae, frames, height, width, batch)
    whole = vae.decode(z, frames)
    in_tiles = tiled(vae, tile).decode(z, frames)
    assert not torch.equal(in_tiles, whole)  # it did take the other way
    torch.testing.assert_close(in_tiles, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("frames", "height", "width", "tile"), [(20, 40, 56, 2), (1, 24, 16, 1)])
def test_tiled_encoding_is_exact_and_draws_the_same_noise(vae, frames, height, width, tile):
    generator = torch.Generator().manual_seed(1)
    video = torch.rand(2, 3, frames, height, width, generator=generator, dtype=vae.dtype) * 2 - 1

    encoded = [one.encode(video, generator=torch.Generator().manual_seed(2)) for one in (tiled(vae, tile), vae)]
    torch.testing.assert_close(*encoded, rtol=0, atol=1e-12)


def test_frames_of_one_tile_are_not_tiled(vae):
    z = latents(vae, 5, 6, 7)
    assert torch.equal(tiled(vae, 7).decode(z, 5), vae.decode(z, 5))


def test_the_latents_are_left_as_they_are(vae):
    z = latents(vae, 5, 6, 7)
    before = z.clone()
    tiled(vae, 3).decode(z, 5)
    assert torch.equal(z, before)


@pytest.mark.parametrize(("dtype", "levels"), [(torch.float32, 0.01), (torch.float16, 1.0), (torch.bfloat16, 6.0)])
def test_tiling_differs_less_than_the_data_type_does(dtype, levels):
    exact = VideoAutoencoderPipeline.from_pretrained(MINI, dtype=torch.float64)
    vae = VideoAutoencoderPipeline.from_pretrained(MINI, dtype=dtype)
    z = exact.encode(picture(96, 80), sample_posterior=False)
    in_tiles = tiled(vae, 4).decode(z, 1)
    assert in_tiles.dtype == dtype
    assert (in_tiles - vae.decode(z, 1)).abs().max() * LEVELS <= levels


def picture(height: int, width: int) -> Tensor:
    """(1, 3, 1, height, width): flat areas, in which seams show, a disk, and a slope; half of it dark."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    disk = ((x - 0.2) ** 2 + (y + 0.1) ** 2 < 0.2).double()
    return torch.stack([disk * 1.6 - 0.8, (x > 0.4) * 1.2 - 0.6, 0.7 * y]).double()[None, :, None]


def border_jump(difference: Tensor, tile: int) -> float:
    """How much more the difference to the untiled frame changes over tile borders than elsewhere, in 8-bit levels."""
    changes = difference.diff(dim=-1).abs().flatten(0, -2).mean(0) * LEVELS
    width = difference.shape[-1] // 8
    borders = sorted({columns.start * 8 - 1 for _, columns in windows(1, width, tile)} - {-1})
    elsewhere = [column for column in range(len(changes)) if column not in borders]
    return (changes[borders].mean() - changes[elsewhere].mean()).item()


def test_no_seams_where_tiles_decoded_on_their_own_have_them():
    """The control: diffusers' tiles, each with group norms of its own, have steps between them that are measured."""
    vae = VideoAutoencoderPipeline.from_pretrained(MINI, dtype=torch.float32)
    z = vae.encode(picture(192, 192), sample_posterior=False)
    whole = vae.decode(z, 1)
    ours = tiled(vae, 8).decode(z, 1)
    assert (ours - whole).abs().max() * LEVELS < 0.01
    assert border_jump(ours - whole, 8) < 0.001

    module = vae.spatial_vae.module
    module.enable_tiling()
    module.tile_latent_min_size, module.tile_sample_min_size, module.tile_overlap_factor = 8, 64, 0.0
    assert border_jump(vae.decode(z, 1) - whole, 8) > 1


def test_the_registered_constructor_takes_tiling(golden):
    folder = str(golden / "vae/model")
    assert open_sora_vae_v1_2(folder, tile_size=8).tiling is None
    assert open_sora_vae_v1_2(folder, tiling=True).tiling == TilingConfig()
    assert open_sora_vae_v1_2(folder, tiling=True, tile_size=8).tiling == TilingConfig(8)
    with pytest.raises(ValueError, match="tile_size must be a positive number of latents"):
        open_sora_vae_v1_2(folder, tiling=True, tile_size=0)


def test_other_blocks_are_refused(vae):
    config = dict(vae.config.autoencoder_kl)
    config["up_block_types"] = ("AttnUpDecoderBlock2D", *config["up_block_types"][1:])
    with torch.device("meta"):
        other = type(vae.spatial_vae)(config, 4)
    with pytest.raises(ValueError, match=r"AttnUpDecoderBlock2D cannot be tiled.*vae.tiling=False"):
        other.decode(torch.empty(1, 4, 1, 8, 8, device="meta"), TilingConfig(4))
