"""The training command from nothing to loadable weights, small; killed once on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from opensora.models.stdit import STDiT3
from opensora.models.text_encoder.t5 import T5Encoder
from opensora.models.vae import VideoAutoencoderPipeline

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_killed_training_resumes_and_its_weights_load(tmp_path):
    command = [sys.executable, str(ROOT / "scripts/train_mini.py"), "--scale", "0.05", "--processes", "2"]
    command += ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "out")]
    # Compiling takes longer than these few steps.
    env = {**os.environ, "TORCHDYNAMO_DISABLE": "1"}
    first = subprocess.Popen(command, env=env, start_new_session=True, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "work/vae.pt"
    deadline = time.monotonic() + 300
    while not checkpoint.is_file() and time.monotonic() < deadline:
        time.sleep(0.5)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert checkpoint.is_file()
    assert not (tmp_path / "out").exists()

    subprocess.run(command, env=env, check=True)
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.safetensors")) < 16e6
    model = STDiT3.from_pretrained(tmp_path / "out/transformer", dtype=torch.float32)
    vae = VideoAutoencoderPipeline.from_pretrained(tmp_path / "out/vae", dtype=torch.float32)
    text = T5Encoder(tmp_path / "out/text_encoder", model_max_length=16).encode(["a still red star"])
    z = torch.randn(1, 4, *vae.get_latent_size([17, 64, 64]))
    with torch.no_grad():
        velocity = model(z, torch.tensor([500.0]), text["y"], mask=text["mask"])
    assert torch.isfinite(velocity).all()
    assert vae.decode(z, 17).shape == (1, 3, 17, 64, 64)
