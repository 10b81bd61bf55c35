"""What pip makes of this project: one command that samples from any folder, without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from opensora.__main__ import COMMANDS
from opensora.datasets.video_io import read_video
from opensora.files import REPO_ROOT

PARTS = ("adacache", "opensora", "configs", "assets", "setup.py", "pyproject.toml", "README.md")


@pytest.mark.slow
def test_an_installation_samples_from_any_folder(tmp_path):
    source, target, work = (tmp_path / name for name in ("source", "target", "work"))
    work.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (REPO_ROOT / part).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(REPO_ROOT / part, source / part)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", target, source], check=True, capture_output=True, timeout=120)
    shutil.rmtree(source)
    assert {path.name for path in target.iterdir() if path.is_dir()} == {
        "adacache", "opensora", "bin", "opensora_adacache-0.1.0.dist-info"
    }  # fmt: skip

    def run(*arguments: str) -> str:
        command = [sys.executable, target / "bin/opensora", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(target), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("--version") == "opensora 0.1.0\n"
    bundled = target / "opensora/bundled"
    assert str(bundled) in run("--help")
    (work / "mine.py").write_text(f"_base_ = {str(bundled / 'configs/mini/sample_adacache.py')!r}\nseed = 7\n")
    steps = ["--prompt", "a red circle", "--num-sampling-steps", "4", "--image-size", "128", "128", "--save-dir", "out"]
    assert "4/4" in run("sample", "configs/mini/sample_adacache.py", *steps)
    assert read_video(work / "out/sample_0000.mp4")[0].shape == (17, 128, 128, 3)
    assert "assets/opensora-mini/transformer" in run("weights", "list", "mine.py")
    assert "4 of 4 steps computed" in run("trace", "show", "out/sample_0000.json")


def test_help_answers_before_libraries_are_loaded():
    """That of every command, in one process."""
    code = f"""
import sys
from opensora.__main__ import main
for name in {list(COMMANDS)}:
    try:
        main([name, "--help"])
    except SystemExit as end:
        assert end.code == 0
assert not {{"torch", "mmengine", "pydantic", "numpy", "huggingface_hub"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO_ROOT)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert "usage: " in done.stdout and (name == "doctor" or f"usage: opensora {name} " in done.stdout)
