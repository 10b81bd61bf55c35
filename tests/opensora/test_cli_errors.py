"""Mistakes on the command line end in one line on stderr and exit code 2, before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.numpy import save_file

from scripts.inference import main

ROOT = Path(__file__).resolve().parents[2]
TIME_LIMIT = 10  # seconds; generous, for busy machines

# Importing torch on the way to an error would cost its user more than a second: this stand-in forbids it.
NO_TORCH = "raise SystemExit('torch was imported')\n"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command from an empty folder; returns exit code and standard error."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def run_command(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
        stdout, stderr = capsys.readouterr()
        assert stdout == ""
        return code, stderr

    return run_command


@pytest.fixture
def weights(tmp_path) -> list[str]:
    """Options that point the mini config to complete, if meaningless, weights."""
    for name in ("model", "vae", "text_encoder"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text('{"depth": 4}')
        (folder / "tokenizer.json").write_text("{}")
        save_file({"a": np.zeros(2, np.float32)}, folder / "model.safetensors")
    return [
        "--cfg-options",
        *(f"{name}.from_pretrained={tmp_path / name}" for name in ("model", "vae", "text_encoder")),
    ]


def assert_error(result: tuple[int, str], *words: str) -> None:
    code, stderr = result
    assert code == 2, stderr
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and "Traceback" not in stderr, stderr
    for word in words:
        assert word in stderr


MINI = "configs/mini/sample_adacache.py"
CASES = {
    "unknown config file": (["configs/mini/sampel.py"], ["did you mean 'configs/mini/sample.py'"]),
    "unknown flag": (["--num-frame", "3"], ["'--num-frame'", "did you mean '--num-frames'"]),
    "flag without value": (["--prompt"], ["--prompt"]),
    "flag of the wrong type": (["--seed", "x"], ["--seed", "'x'"]),
    "boolean of the wrong type": (["--flash-attn", "maybe"], ["--flash-attn", "True or False"]),
    "unknown key": ([MINI, "--cfg-options", "sheduler.cfg_scale=3"], ["'sheduler'", "'scheduler'"]),
    "wrong type": ([MINI, "--cfg-options", "scheduler.cfg_scale=high"], ["must be a number, got 'high'"]),
    "option without value": ([MINI, "--cfg-options", "seed"], ["KEY=VALUE", "'seed'"]),
    "option with open bracket": ([MINI, "--cfg-options", "image_size=[64,64"], ["image_size", "brackets"]),
    "unknown resolution": ([MINI, "--resolution", "721p", "--aspect-ratio", "9:16"], ["'721p'", "720p"]),
    "unknown aspect ratio": ([MINI, "--resolution", "720p", "--aspect-ratio", "9:15"], ["'9:15'", "9:16"]),
    "unknown duration": ([MINI, "--num-frames", "3s"], ["'3s'", "2s"]),
    "empty prompt": ([MINI, "--prompt", ""], ["prompt 0 is empty"]),
    "empty prompt list": ([MINI, "--cfg-options", "prompt=[]"], ["prompt list is empty"]),
    "missing prompt file": ([MINI, "--prompt-path", "nowhere.txt"], ["nowhere.txt"]),
    "prompts beyond the file": ([MINI, "--start-index", "99"], ["99", "3 prompts"]),
    "a prompt without quotes": (
        [MINI, "--prompt", "a", "red", "star"],
        ['put a prompt in quotes, --prompt "a red star"'],
    ),
    "a prompt without a flag": (["a red star"], ["'a red star' does not exist", "--prompt and in quotes"]),
    "a size without its ratio": ([MINI, "--resolution", "720p", "--num-frames", "2s"], ["'aspect_ratio'", "17, 34 or"]),
    "config after the prompts": (["--prompt", "a cat", str(ROOT / MINI)], ["put the config file before the flags"]),
    "weights that cannot be fetched": (
        ["configs/sample.py"],
        ["OpenSora-STDiT-v3", "4.8 GB", "OpenSora-VAE-v1.2", "t5-v1_1-xxl", "configs/mini/"],
    ),
    "weights that do not exist": ([MINI, "--ckpt-path", "./nowhere"], ["'./nowhere'"]),
    "codebook not ascending": ([MINI, "--cfg-options", "cache.codebook=[(0.2,3),(0.1,2)]"], ["cache: ", "ascend"]),
    "rate below 1": ([MINI, "--cfg-options", "cache.codebook=[(0.1,0),(1,1)]"], ["cache: ", "rate"]),
    "metric block out of range": (
        ["configs/sample_adacache.py", "--cfg-options", "cache.metric_blocks=[28]"],
        ["0..27"],
    ),
    "MoReg beyond the steps": (
        ["configs/mini/sample_adacache_moreg.py", "--cfg-options", "cache.moreg.window=(4,31)"],
        ["cache: ", "30"],
    ),
    "a reference that is not there": ([MINI, "--prompt", "x", "--reference-path", "a.png"], ["'a.png'", "not exist"]),
    "no drafts": ([MINI, "--draft", "0"], ["draft must be at least 1, got 0"]),
    "a part of a draft": ([MINI, "--draft", "1.5"], ["--draft", "'1.5'"]),
    "final of no seed": ([MINI, "--final"], ["--final"]),
    "final of a word": ([MINI, "--final", "best"], ["final takes seeds such as 1024", "'best'"]),
    "draft and final": ([MINI, "--draft", "2", "--final", "7"], ["draft and final cannot be combined"]),
    "draft and replay": ([MINI, "--draft", "2", "--replay", "a.json"], ["replay and draft cannot be combined"]),
    "unknown device": ([MINI, "--device", "gpu"], ["'gpu'", "cuda"]),
}


@pytest.mark.parametrize(("arguments", "words"), CASES.values(), ids=CASES.keys())
def test_a_mistake_ends_in_one_sentence(run, arguments, words):
    assert_error(run(*arguments), *words)


@pytest.mark.parametrize("name", ["unknown flag", "unknown key", "weights that cannot be fetched"])
def test_torch_is_not_imported_for_a_mistake(tmp_path, name):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(NO_TORCH)
    (arguments, words), variables = CASES[name], {"HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/inference.py"), *arguments],
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )
    assert done.stdout == ""
    assert_error((done.returncode, done.stderr), *words)


def test_an_empty_prompt_file_is_refused(run, tmp_path):
    (tmp_path / "empty.txt").write_text("\n  \n")
    assert_error(run(MINI, "--prompt-path", str(tmp_path / "empty.txt")), "empty.txt", "no prompt")


def test_a_truncated_checkpoint_is_refused(run, weights, tmp_path):
    file = tmp_path / "vae/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert_error(run(MINI, *weights), str(file), "corrupt or truncated")


def test_an_output_folder_that_cannot_be_made_is_refused(run, weights, tmp_path):
    (tmp_path / "file").write_text("")
    assert_error(run(MINI, *weights, "--save-dir", str(tmp_path / "file/samples")), "file/samples", "--save-dir")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_refused(run, weights):
    assert_error(run(MINI, *weights, "--device", "cuda"), "'cuda'", "--device cpu")


def test_a_checkpoint_of_another_shape_is_refused(run, weights, tmp_path):
    result = run(MINI, *weights, "--device", "cpu", "--verbose", "0")
    assert_error(result, str(tmp_path / "model"), "does not fit STDiT3")


def test_nothing_is_written_when_a_mistake_is_found(run, tmp_path):
    run(MINI, "--ckpt-path", "./nowhere", "--save-dir", "samples")
    assert list((tmp_path / "work").iterdir()) == []
