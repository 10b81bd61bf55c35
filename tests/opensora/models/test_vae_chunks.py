"""Videos decoded piece by piece."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from opensora.models.vae import TilingConfig, VideoAutoencoderPipeline
from opensora.models.vae import vae as vae_module


@pytest.fixture
def vae(golden: Path) -> VideoAutoencoderPipeline:
    return VideoAutoencoderPipeline.from_pretrained(golden / "vae/model")


def latents(vae: VideoAutoencoderPipeline, frames: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 4, vae.latent_frames(frames), 4, 5, generator=torch.Generator().manual_seed(0))


def test_pieces_are_micro_batches_of_the_whole_clip(vae):
    z = latents(vae, 38)
    pieces = list(vae.decode_chunks(z, 38))
    assert [piece.shape[2] for piece in pieces] == [4] * 9 + [2]  # also over the borders of chunks
    assert torch.equal(torch.cat(pieces, dim=2), vae.decode(z, 38))


def test_tiled_pieces_are_single_frames(vae):
    vae.tiling = TilingConfig(3)
    pieces = list(vae.decode_chunks(latents(vae, 5, batch=2), 5))
    assert [tuple(piece.shape) for piece in pieces] == [(2, 3, 1, 32, 40)] * 5


def test_micro_batches_have_the_frames_they_would_have_in_one_go(vae):
    """The same frames in one call give the same bits; those of another batch size might not."""
    z = latents(vae, 38)
    chunks = z.split(5, dim=2)
    with torch.no_grad():
        features = [
            vae.temporal_vae.decode(chunk * vae.scale + vae.shift, frames)
            for chunk, frames in zip(chunks, (17, 17, 4), strict=True)
        ]
        assert torch.equal(vae.spatial_vae.decode(torch.cat(features, dim=2)), vae.decode(z, 38))


def test_without_micro_batches_the_clip_is_one_piece(golden):
    vae = VideoAutoencoderPipeline.from_pretrained(golden / "vae/model", micro_batch_size=None)
    [piece] = vae.decode_chunks(latents(vae, 20), 20)
    assert piece.shape[2] == 20


def test_a_chunk_is_decoded_when_it_is_asked_for(vae, monkeypatch):
    calls = []
    decode = vae.temporal_vae.decode
    monkeypatch.setattr(vae.temporal_vae, "decode", lambda *args: calls.append(args[1]) or decode(*args))
    pieces = vae.decode_chunks(latents(vae, 34), 34)
    assert calls == []
    for _ in range(4):
        next(pieces)
    assert calls == [17]
    assert len(list(pieces)) == 5
    assert calls == [17, 17]


def test_wrong_latents_are_refused_before_anything_is_decoded(vae):
    with pytest.raises(ValueError, match="51 frames have 15 latent frames, got 5"):
        next(vae.decode_chunks(latents(vae, 17), 51))


def test_pieces_record_no_gradients(vae):
    trainable = copy.deepcopy(vae).requires_grad_(True)
    for piece in trainable.decode_chunks(latents(vae, 5), 5):
        assert not piece.requires_grad
        assert torch.is_grad_enabled()


def test_the_bar_counts_the_frames_of_the_clip(vae, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total, disable, **_):
            self.total, self.disable, self.done = total, disable, 0
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, frames):
            self.done += frames

    monkeypatch.setattr(vae_module, "tqdm", Bar)
    vae.decode(latents(vae, 20, batch=2), 20, progress=True)
    vae.decode(latents(vae, 1), 1)
    assert [(bar.total, bar.done, bar.disable) for bar in bars] == [(20, 20, False), (1, 1, True)]
