"""Training buckets: shares, batches of about equal size, and encoding that can be killed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from mini.training.buckets import BUCKETS, Bucket, pick_bucket, scaled
from mini.training.encode import encode_clips
from mini.training.train_diffusion import BASE_RESOLUTION, draw_masks, sample_times, size_info
from mini.training.workers import Workers
from mini.world.clips import make_caption
from opensora.schedulers.rf import timestep_transform


def test_shares_add_up_and_are_drawn():
    assert sum(bucket.share for bucket in BUCKETS) == pytest.approx(1)
    rng = np.random.default_rng(0)
    drawn = [pick_bucket(rng) for _ in range(3000)]
    for bucket in BUCKETS:
        assert drawn.count(bucket) / 3000 == pytest.approx(bucket.share, abs=0.04)


def test_batches_of_all_buckets_have_about_as_many_tokens():
    def tokens(bucket: Bucket) -> int:
        height, width = bucket.size
        latent_frames = 1 if bucket.frames == 1 else bucket.frames // 17 * 5
        return bucket.batch * latent_frames * (height // 32) * (width // 32)

    limit = tokens(BUCKETS[0])
    assert all(0.55 * limit < tokens(bucket) < 1.05 * limit for bucket in BUCKETS)


def test_a_trial_run_has_few_clips_of_every_bucket():
    assert [count for _, count in scaled(0.001)] == [20, 20, 16, 16, 16, 16]


def test_training_times_are_shifted_towards_the_noise_with_length_and_size():
    means = {}
    for bucket in BUCKETS:
        times = sample_times(4000, size_info(bucket, "cpu"), torch.Generator().manual_seed(0))
        assert times.shape == (4000,)
        assert 0 <= times.min() <= times.max() <= 1000
        means[str(bucket)] = float(times.mean())
    assert means["1x128x128"] < means["17x128x128"] < means["34x128x128"] < means["51x128x128"]
    assert means["17x128x192"] == pytest.approx(means["17x192x128"])
    assert means["17x128x128"] < means["17x128x192"]


def test_an_image_keeps_its_times():
    u = torch.tensor([250.0, 500.0])
    [image] = (bucket for bucket in BUCKETS if bucket.frames == 1)
    assert torch.equal(timestep_transform(u, size_info(image, "cpu"), base_resolution=BASE_RESOLUTION), u)


def test_a_quarter_of_a_batch_has_frames_given():
    masks = draw_masks(64, 10, np.random.default_rng(0))
    assert masks[16:].all()
    assert not masks[:16].all(dim=1).any()
    assert masks.any(dim=1).all()
    assert draw_masks(8, 1, np.random.default_rng(0)).all()  # nothing of an image can be given


class CountingVAE(nn.Module):
    """Latents that are the mean brightness of the clip."""

    out_channels = 4

    def __init__(self, fail_at: int | None = None, weight: float = 1.0):
        super().__init__()
        self.spatial_vae, self.temporal_vae = nn.Linear(1, 1), nn.Identity()
        nn.init.constant_(self.spatial_vae.weight, weight)
        nn.init.zeros_(self.spatial_vae.bias)
        self.calls, self.fail_at = 0, fail_at

    def get_latent_size(self, size):
        return [5, 2, 2]

    def encode(self, video, sample_posterior):
        assert not sample_posterior
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        return video.mean((1, 2, 3, 4))[:, None, None, None, None].expand(-1, 4, 5, 2, 2)


def test_encoding_starts_a_killed_bucket_again_and_skips_a_finished_one(tmp_path):
    bucket = Bucket(17, (128, 128), clips=20, batch=4, share=1)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    encode_clips(CountingVAE(), straight, bucket, 20, 7, Workers())
    with pytest.raises(KeyboardInterrupt):
        encode_clips(CountingVAE(fail_at=2), killed, bucket, 20, 7, Workers())
    encode_clips(CountingVAE(), killed, bucket, 20, 7, Workers())
    assert np.array_equal(np.load(straight / "latents.npy"), np.load(killed / "latents.npy"))
    assert json.loads((killed / "captions.json").read_text()) == [make_caption(7, i) for i in range(20)]
    again = CountingVAE()
    encode_clips(again, killed, bucket, 20, 7, Workers())
    assert again.calls == 0
    with pytest.raises(ValueError, match="delete it or choose another"):
        encode_clips(again, killed, bucket, 21, 7, Workers())
    with pytest.raises(ValueError, match="delete it or choose another"):
        encode_clips(CountingVAE(weight=2.0), killed, bucket, 20, 7, Workers())
