"""The training command from nothing to loadable weights, small; killed once in every stage."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mini.training.text import MAX_TOKENS
from opensora.models.stdit import STDiT3
from opensora.models.text_encoder.t5 import T5Encoder
from opensora.models.vae import VideoAutoencoderPipeline

ROOT = Path(__file__).resolve().parents[2]
# A file that appears in the middle of each stage.
SIGNS = {
    "vae": "vae.pt",
    "temporal": "temporal.pt",
    "joint": "joint.pt",
    "decoders": "decoders.pt",
    "words": "words.pt",
    "latents": "latents/34x128x128/latents.npy",
    "diffusion": "diffusion.pt",
}


def command(folder: Path) -> list[str]:
    script = [sys.executable, str(ROOT / "scripts/train_mini.py"), "--scale", "0.001", "--processes", "2"]
    return [*script, "--work", str(folder / "work"), "--output", str(folder / "out")]


def kill_at(sign: Path, folder: Path) -> None:
    """Start the training and kill it as soon as ``sign`` exists."""
    process = subprocess.Popen(command(folder), start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not sign.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sign.is_file()
    assert process.poll() is None, "the training ended before it could be killed"
    process.send_signal(signal.SIGKILL)  # its workers have to notice by themselves
    process.wait()


@pytest.mark.slow
def test_a_training_killed_in_every_stage_gives_the_weights_of_an_uninterrupted_one(tmp_path):
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    for sign in SIGNS.values():
        kill_at(killed / "work" / sign, killed)
        assert not (killed / "out").exists()
    subprocess.run(command(killed), check=True)
    subprocess.run(command(straight), check=True)
    files = sorted(path.relative_to(straight) for path in (straight / "out").rglob("*.safetensors"))
    assert len(files) == 3
    for name in files:
        expected, resumed = load_file(straight / name), load_file(killed / name)
        for key, value in expected.items():
            assert torch.equal(value, resumed[key]), f"{name}: {key}"

    out = straight / "out"
    assert sum(path.stat().st_size for path in out.rglob("*.safetensors")) < 40e6
    model = STDiT3.from_pretrained(out / "transformer", dtype=torch.float32)
    vae = VideoAutoencoderPipeline.from_pretrained(out / "vae", dtype=torch.float32)
    text = T5Encoder(out / "text_encoder", model_max_length=MAX_TOKENS).encode(["a still red star"])
    z = torch.randn(1, 4, *vae.get_latent_size([17, 128, 128]))
    with torch.no_grad():
        velocity = model(z, torch.tensor([500.0]), text["y"], mask=text["mask"])
    assert torch.isfinite(velocity).all()
    assert vae.decode(z, 17).shape == (1, 3, 17, 128, 128)
