"""What the doctor finds by use: devices, space, the encoder, weights, and the mini model's video."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from opensora.cli import doctor_runs, mini_reference
from opensora.cli.doctor_runs import (
    PUBLISHED,
    check_devices,
    check_encoder,
    check_sampling,
    check_space,
    check_weights,
    check_weights_unchanged,
)
from opensora.cli.mini_reference import MiniVideo, block_means, read_reference, sample_mini, weight_checksums
from opensora.weights import hub
from support import small_model

ROOT = Path(__file__).resolve().parents[3]
GB = 10**9


@pytest.fixture
def gpu(monkeypatch):
    """A function that makes a CUDA device up."""

    def set_up(
        name: str = "NVIDIA A100", capability: tuple[int, int] = (8, 0), memory=lambda index: (30 * GB, 40 * GB)
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        monkeypatch.setattr(torch.cuda, "mem_get_info", memory)

    return set_up


def no_gpu(monkeypatch, cuda: str | None, driver: bool) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if driver else None)


def test_a_gpu_is_described(gpu):
    gpu()
    finding = check_devices()[0]
    assert finding.state == "ok"
    assert finding.text.startswith("cuda:0 NVIDIA A100, 30") and finding.text.endswith("capability (8, 0), bf16")


def test_an_old_gpu_has_no_bf16(gpu):
    gpu("Tesla T4", (7, 5))
    finding = check_devices()[0]
    assert finding.state == "warning" and "--dtype fp16" in finding.fix


def test_a_gpu_that_does_not_answer_is_a_problem(gpu):
    def fail(index):
        raise RuntimeError("CUDA error: device busy")

    gpu(memory=fail)
    assert check_devices()[0].state == "problem" and "device busy" in check_devices()[0].text


def test_a_gpu_without_a_c_compiler_gets_a_warning(gpu, monkeypatch):
    gpu()
    monkeypatch.setattr(doctor_runs, "triton_problem", lambda: "there is no C compiler; install gcc")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    finding = check_devices()[1]
    assert (finding.state, finding.fix) == ("warning", "install gcc") and "there is no C compiler" in finding.text


def test_a_gpu_that_fails_leaves_the_findings_of_the_cpu(monkeypatch):
    def sample(device):
        if device == "cuda":
            raise RuntimeError("CUDA error: out of memory")
        return MiniVideo(reference.latents, np.zeros((17, 128, 128, 3), np.uint8))

    reference = doctor_runs.mini_reference.read_reference()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(doctor_runs.mini_reference, "sample_mini", sample)
    monkeypatch.setattr(doctor_runs, "SHADE_TOLERANCES", {"cpu": 255.0})
    on_cpu, on_gpu, mp4 = check_sampling()
    assert (on_cpu.state, on_gpu.state, mp4.state) == ("ok", "problem", "ok")
    assert "on cuda failed: CUDA error: out of memory" in on_gpu.text and "--device cpu" in on_gpu.fix


def test_no_gpu_and_no_driver_is_fine(monkeypatch):
    no_gpu(monkeypatch, None, driver=False)
    assert check_devices()[0].state == "ok"


@pytest.mark.parametrize(
    "cuda, said", [(None, "this PyTorch is built for the CPU only"), ("12.4", "PyTorch is built for CUDA 12.4, but")]
)
def test_a_driver_without_a_gpu_is_a_warning(monkeypatch, cuda, said):
    no_gpu(monkeypatch, cuda, driver=True)
    finding = check_devices()[0]
    assert finding.state == "warning" and said in finding.text and finding.fix


def test_a_full_disk_is_a_warning(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    assert [finding.state for finding in check_space() if "are free for" in finding.text] == ["warning"] * 2


def test_a_folder_that_cannot_be_written_to_is_a_warning(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    texts = [finding.text for finding in check_space() if finding.state == "warning"]
    assert sum("cannot be written to" in text for text in texts) == 2


def test_a_cache_that_is_not_there_yet_is_on_the_disk_of_its_parent(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path / "not" / "there")
    assert all(finding.state == "ok" for finding in check_space())


def test_the_encoder_is_there():
    (finding,) = check_encoder()
    assert finding.state == "ok" and "libavcodec" in finding.text


def test_a_build_without_the_encoder_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor_runs, "ENCODER", "libnothing264")
    (finding,) = check_encoder()
    assert finding.state == "problem" and "without libnothing264" in finding.text and "pip install" in finding.fix


MINI = str(ROOT / small_model.SAMPLE)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path / "empty")


def config_with(tmp_path: Path, piece: str, path: str) -> str:
    config = tmp_path / "config.py"
    config.write_text(f'_base_ = "{MINI}"\n{piece} = dict(from_pretrained="{path}")\n')
    return str(config)


def test_whole_weights_fit():
    findings = check_weights(MINI, required=True)
    assert [finding.state for finding in findings] == ["ok"] * 6
    assert sum("whole" in finding.text for finding in findings) == 3


def test_published_weights_that_are_not_here_are_one_warning():
    (finding,) = check_weights(PUBLISHED, required=False)
    assert finding.state == "warning" and finding.fix.startswith("run: python scripts/weights.py download")
    assert all(part in finding.text for part in ("OpenSora-STDiT-v3", "OpenSora-VAE-v1.2", "t5-v1_1-xxl"))


def test_weights_of_ones_own_config_that_cannot_be_downloaded_are_a_problem(monkeypatch):
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    (finding,) = check_weights(PUBLISHED, required=True)
    assert finding.state == "problem" and "--weights-dir DIR" in finding.fix
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    (finding,) = check_weights(PUBLISHED, required=True)
    assert finding.state == "warning" and "the first run downloads it" in finding.text


def test_a_file_that_is_cut_off_is_a_problem(tmp_path):
    folder = shutil.copytree(ROOT / small_model.FOLDER / "vae", tmp_path / "vae")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    bad = [finding for finding in check_weights(config_with(tmp_path, "vae", folder), True) if finding.state != "ok"]
    assert [finding.state for finding in bad] == ["problem"]
    assert "autoencoder" in bad[0].text and "truncated" in bad[0].text and bad[0].fix


def test_a_folder_that_is_not_there_is_a_problem(tmp_path):
    config = config_with(tmp_path, "model", "/no/such/folder")
    bad = [finding for finding in check_weights(config, True) if finding.state != "ok"]
    assert [finding.state for finding in bad] == ["problem"]
    assert "/no/such/folder" in bad[0].text and "model.from_pretrained" in bad[0].fix


def test_weights_of_another_piece_are_a_problem(tmp_path):
    config = config_with(tmp_path, "model", str(ROOT / small_model.FOLDER / "vae"))
    assert "problem" in [finding.state for finding in check_weights(config, True)]


def test_a_config_that_cannot_be_read(tmp_path):
    (finding,) = check_weights("no/such/config.py", required=True)
    assert finding.state == "problem" and "no/such/config.py" in finding.fix
    (finding,) = check_weights("no/such/config.py", required=False)
    assert finding.state == "ok"


@pytest.fixture(scope="module")
def sampled() -> MiniVideo:
    return sample_mini("cpu")


@pytest.fixture
def copied_model(tmp_path, monkeypatch):
    """The mini model's folder as a copy that can be damaged."""
    folder = shutil.copytree(mini_reference.MODEL_FOLDER, tmp_path / "mini")
    monkeypatch.setattr(mini_reference, "MODEL_FOLDER", folder)
    monkeypatch.setattr(mini_reference, "REFERENCE", folder / "doctor.safetensors")
    return folder


def states(findings) -> list[str]:
    return [finding.state for finding in findings]


def test_the_reference_is_small_and_of_these_weights(sampled):
    assert mini_reference.REFERENCE.stat().st_size < 50_000
    expected = read_reference()
    assert expected.checksums == weight_checksums() and len(expected.checksums) == 3
    assert expected.latents.shape == sampled.latents.shape
    assert expected.shades.shape == block_means(sampled.frames).shape


def test_writing_the_reference_gives_the_same_again(copied_model):
    before = read_reference()
    assert mini_reference.write_reference() == copied_model / "doctor.safetensors"
    after = read_reference()
    assert torch.allclose(after.latents, before.latents, atol=1e-3)
    assert after.checksums == before.checksums


@pytest.mark.parametrize("argument", ["--help", "--outpt"])
def test_only_a_command_without_arguments_writes_the_reference(copied_model, argument):
    before = mini_reference.REFERENCE.read_bytes()
    with pytest.raises(SystemExit) as exit_:
        mini_reference.main([argument])
    assert exit_.value.code == (0 if argument == "--help" else 2)
    assert mini_reference.REFERENCE.read_bytes() == before


def test_means_over_blocks():
    frames = np.zeros((1, 32, 16, 3), np.uint8)
    frames[0, :8, :, 1] = 200
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
    monkeypatch.setattr(mini_reference, "REFERENCE", tmp_path / "doctor.safetensors")
    (finding,) = check_weights_unchanged()
    assert finding.state == "warning" and "not part of this installation" in finding.text
    assert check_sampling() == []


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_other_latents_are_a_problem(monkeypatch, sampled, factor):
    monkeypatch.setattr(
        mini_reference, "sample_mini", lambda device: MiniVideo(sampled.latents * factor, sampled.frames)
    )
    finding = check_sampling()[0]
    assert finding.state == "problem" and "latents unlike the release's" in finding.text
    assert "at most 0.001 is allowed" in finding.text and "requirements.txt" in finding.fix


def test_latents_of_another_shape_are_a_problem(monkeypatch, sampled):
    monkeypatch.setattr(mini_reference, "sample_mini", lambda device: MiniVideo(sampled.latents[:, :1], sampled.frames))
    assert check_sampling()[0].state == "problem"


def test_other_pixels_are_a_problem(monkeypatch, sampled):
    wrong = sampled.frames[..., ::-1]  # blue for red
    monkeypatch.setattr(mini_reference, "sample_mini", lambda device: MiniVideo(sampled.latents, wrong))
    finding = check_sampling()[0]
    assert finding.state == "problem" and "decode to a video unlike" in finding.text


def test_an_encoder_that_spoils_videos_is_a_problem(monkeypatch, sampled):
    monkeypatch.setattr(mini_reference, "sample_mini", lambda device: sampled)
    monkeypatch.setattr(doctor_runs, "write_video", lambda path, frames, fps: path)
    monkeypatch.setattr(doctor_runs, "read_video", lambda path: (255 - sampled.frames, 8.0))
    assert check_sampling()[-1].state == "problem"
    monkeypatch.setattr(doctor_runs, "read_video", lambda path: (sampled.frames[:5], 8.0))
    assert f"comes back as {(5, *sampled.frames.shape[1:])}" in check_sampling()[-1].text


def test_a_gpu_is_checked_with_a_tolerance_of_its_own(monkeypatch, sampled):
    devices = []

    def sample(device):
        devices.append(device)
        return MiniVideo(sampled.latents * (1.01 if device == "cuda" else 1), sampled.frames)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(mini_reference, "sample_mini", sample)
    assert states(check_sampling()) == ["ok", "ok", "ok"] and devices == ["cpu", "cuda"]
    monkeypatch.setitem(doctor_runs.TOLERANCES, "cuda", 1e-3)
    assert states(check_sampling()) == ["ok", "problem", "ok"]
