"""The golden check: passes here, and finds changed weights, wrong numbers and a broken encoder."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest
import torch

from opensora.datasets import video_io
from opensora.doctor import golden, reference
from opensora.doctor.golden import check_sampling, check_weights_unchanged
from opensora.doctor.reference import Sampled, block_means, read_reference, sample_mini, weight_checksums


@pytest.fixture(scope="module")
def sampled() -> Sampled:
    return sample_mini("cpu")


@pytest.fixture
def copied_model(tmp_path, monkeypatch):
    """The mini model's folder as a copy that can be damaged."""
    folder = shutil.copytree(reference.MODEL_FOLDER, tmp_path / "mini")
    monkeypatch.setattr(reference, "MODEL_FOLDER", folder)
    monkeypatch.setattr(reference, "REFERENCE", folder / "doctor.safetensors")
    return folder


def states(findings) -> list[str]:
    return [finding.state for finding in findings]


def test_it_passes_within_ten_seconds():
    started = time.monotonic()
    findings = check_weights_unchanged() + check_sampling()
    assert states(findings) == ["ok", "ok", "ok"]
    assert time.monotonic() - started < 10


def test_the_reference_is_small_and_of_these_weights():
    assert reference.REFERENCE.stat().st_size < 50_000
    expected = read_reference()
    assert expected.checksums == weight_checksums() and len(expected.checksums) == 3
    assert expected.latents.shape == (4, 5, 8, 8) and expected.shades.shape == (17, 8, 8, 3)


def test_writing_the_reference_gives_the_same_again(copied_model):
    before = read_reference()
    assert reference.write_reference() == copied_model / "doctor.safetensors"
    first = reference.REFERENCE.read_bytes()
    assert reference.write_reference().read_bytes() == first
    after = read_reference()
    assert torch.allclose(after.latents, before.latents, atol=1e-3)
    assert after.checksums == before.checksums


def test_means_over_blocks():
    frames = np.zeros((1, 16, 8, 3), np.uint8)
    frames[0, :4, :, 1] = 200
    assert block_means(frames).tolist() == [[[[0, 100, 0]], [[0, 0, 0]]]]


@pytest.mark.parametrize("damage", ["flipped", "cut off", "missing"])
def test_a_damaged_weight_file_is_found(copied_model, damage):
    file = copied_model / "transformer/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1  # one bit, whose effect on videos may be too small to see
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flipped" else content[:-1000])
    (finding,) = check_weights_unchanged()
    assert finding.state == "problem" and str(file) in finding.text and "git checkout" in finding.fix
    assert ("missing" in finding.text) == (damage == "missing")
    assert check_sampling() == []  # it would only say the same


def test_an_installation_without_the_mini_model(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "REFERENCE", tmp_path / "doctor.safetensors")
    (finding,) = check_weights_unchanged()
    assert finding.state == "warning" and "not part of this installation" in finding.text
    assert check_sampling() == []


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_other_latents_are_a_problem(monkeypatch, sampled, factor):
    monkeypatch.setattr(reference, "sample_mini", lambda device: Sampled(sampled.latents * factor, sampled.frames))
    finding = check_sampling()[0]
    assert finding.state == "problem" and "other latents than the release" in finding.text
    assert "at most 0.001 is right" in finding.text and "requirements.txt" in finding.fix


def test_latents_of_another_shape_are_a_problem(monkeypatch, sampled):
    monkeypatch.setattr(reference, "sample_mini", lambda device: Sampled(sampled.latents[:, :1], sampled.frames))
    assert check_sampling()[0].state == "problem"


def test_other_pixels_are_a_problem(monkeypatch, sampled):
    wrong = sampled.frames[..., ::-1]  # blue for red
    monkeypatch.setattr(reference, "sample_mini", lambda device: Sampled(sampled.latents, wrong))
    finding = check_sampling()[0]
    assert finding.state == "problem" and "decode to another video" in finding.text


def test_an_encoder_that_spoils_videos_is_a_problem(monkeypatch, sampled):
    monkeypatch.setattr(reference, "sample_mini", lambda device: sampled)
    monkeypatch.setattr(video_io, "write_video", lambda path, frames, fps: path)
    monkeypatch.setattr(video_io, "read_video", lambda path: (255 - sampled.frames, 8.0))
    assert check_sampling()[-1].state == "problem"
    monkeypatch.setattr(video_io, "read_video", lambda path: (sampled.frames[:5], 8.0))
    assert "comes back as (5, 64, 64, 3)" in check_sampling()[-1].text


def test_a_gpu_is_checked_with_a_tolerance_of_its_own(monkeypatch, sampled):
    devices = []

    def sample(device):
        devices.append(device)
        return Sampled(sampled.latents * (1.01 if device == "cuda" else 1), sampled.frames)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(reference, "sample_mini", sample)
    assert states(check_sampling()) == ["ok", "ok", "ok"] and devices == ["cpu", "cuda"]
    monkeypatch.setitem(golden.TOLERANCES, "cuda", 1e-3)
    assert states(check_sampling()) == ["ok", "problem", "ok"]
