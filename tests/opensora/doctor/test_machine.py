"""Devices, threads, space, variables and the encoder."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from opensora.doctor import devices, encoder, environment
from opensora.doctor.devices import check_devices, check_space
from opensora.doctor.encoder import check_encoder
from opensora.doctor.environment import available_cores, check_hub_variables, check_threads

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


def test_apples_gpu_is_mentioned(monkeypatch):
    no_gpu(monkeypatch, None, driver=False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "not used" in check_devices()[1].text


def test_a_full_disk_is_a_warning(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    assert [finding.state for finding in check_space() if "are free for" in finding.text] == ["warning"] * 2


def test_a_folder_that_cannot_be_written_to_is_a_warning(monkeypatch):
    monkeypatch.setattr(devices.os, "access", lambda path, mode: False)
    texts = [finding.text for finding in check_space() if finding.state == "warning"]
    assert sum("cannot be written to" in text for text in texts) == 2


def test_a_cache_that_is_not_there_yet_is_on_the_disk_of_its_parent(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_hub_cache", lambda: tmp_path / "not" / "there")
    assert all(finding.state == "ok" for finding in check_space())


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_forbidden_downloads_are_a_warning(monkeypatch, name):
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    assert check_hub_variables() == []
    monkeypatch.setenv(name, "1")
    (finding,) = check_hub_variables()
    assert finding.state == "warning" and finding.text.startswith(f"{name} forbids")
    monkeypatch.setenv(name, "0")
    assert check_hub_variables() == []


def threads(monkeypatch, chosen: int, cores: int, **variables: str) -> list[str]:
    """States and texts of what is found about threads."""
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen)
    monkeypatch.setattr(environment, "available_cores", lambda: cores)
    return [f"{finding.state} {finding.text}" for finding in check_threads()]


def test_threads(monkeypatch):
    assert threads(monkeypatch, 4, 4) == ["ok 4 CPU cores for this process, 4 threads chosen by PyTorch"]
    assert threads(monkeypatch, 1, 4, OMP_NUM_THREADS="1")[1:] == ["ok OMP_NUM_THREADS=1"]


def test_more_threads_than_cores_are_a_warning(monkeypatch):
    assert threads(monkeypatch, 64, 2)[1].startswith("warning 64 threads share 2 cores")


@pytest.mark.parametrize("value", ["many", "", "0", "-1"])
def test_a_number_of_threads_that_is_none(monkeypatch, value):
    assert threads(monkeypatch, 2, 2, OMP_NUM_THREADS=value)[1].startswith("warning OMP_NUM_THREADS=")


def test_busy_waiting_is_a_warning(monkeypatch):
    assert threads(monkeypatch, 2, 2, OMP_WAIT_POLICY="active")[1].startswith("warning OMP_WAIT_POLICY=ACTIVE")


def test_cores_are_those_of_the_process_within_its_quota(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    for quota, cores in ((None, 8), (2.0, 2), (0.5, 1), (100.0, 8)):
        monkeypatch.setattr(environment, "_quota", lambda quota=quota: quota)
        assert available_cores() == cores


def test_the_encoder_is_there():
    (finding,) = check_encoder()
    assert finding.state == "ok" and "libavcodec" in finding.text


def test_a_build_without_the_encoder_is_a_problem(monkeypatch):
    monkeypatch.setattr(encoder, "ENCODER", "libnothing264")
    (finding,) = check_encoder()
    assert finding.state == "problem" and "without libnothing264" in finding.text and "pip install" in finding.fix
