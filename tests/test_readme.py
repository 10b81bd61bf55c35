"""README.md is executable: its blocks run from top to bottom as printed, and what the documentation names is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from adacache import Site, StepController
from adacache.conformance.tiny import TINY
from opensora.cli.arguments import parse_arguments
from opensora.config.entries import find_config
from opensora.files import REPO_ROOT, find_path

README = REPO_ROOT / "README.md"
DOCUMENTS = [README, REPO_ROOT / "CONTRIBUTING.md", *sorted(REPO_ROOT.glob("assets/*/README.md"))]
DOCUMENTS += sorted(REPO_ROOT.glob("docs/*.md"))
# Commands of README.md that are not run, by words of theirs, and why.
NOT_RUN = {
    "run_tests.sh": "it is the suite that this test is part of",
    "configs/sample_adacache.py": "25 GB of weights",
    "weights.py download": "25 GB of weights",
}
SAMPLERS = ("run_sample_video.sh", "run_sample_image.sh", "inference.py")
FLAGS_OF_OTHERS = {"--nproc-per-node", "--nnodes", "--no-deps", "--no-build-isolation"}  # torchrun, pip
FLAGS_OF_OTHERS |= {"--rdzv-backend", "--rdzv-endpoint", "--rdzv-id"}


def blocks(document: Path) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a document: language and text."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The commands of a block of bash, one a line; those that go on are joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


README_COMMANDS = [line for language, text in blocks(README) if language == "bash" for line in commands(text)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(REPO_ROOT).as_posix())
def test_what_a_document_names_is_there(document):
    """Linked files, paths in code, flags, and the arguments of the sampler."""
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
        assert (document.parent / link).exists(), link
    rooms = "adacache|assets|bench|configs|docs|examples|mini|opensora|scripts|tests"
    lines_of_today = [line for line in text.splitlines() if not re.search(r"commit [0-9a-f]{7}", line)]
    for path in re.findall(rf"(?<![\w./-])(?:{rooms})/[\w/-]+(?:\.\w+)?", "\n".join(lines_of_today)):
        assert find_path(path) or (document.parent / path).exists(), path
    sources = [*(REPO_ROOT / "scripts").iterdir(), *(REPO_ROOT / "opensora").rglob("*.py")]
    known = {flag for file in sources for flag in re.findall(r"--[a-z][\w-]+", file.read_text(encoding="utf-8"))}
    for code in re.findall(r"`[^`\n]+`", text) + [body for language, body in blocks(document) if language == "bash"]:
        assert set(re.findall(r"(?<!\S)--[a-z][\w-]+", code)) <= known | FLAGS_OF_OTHERS, code
    for line in (line for language, body in blocks(document) if language == "bash" for line in commands(body)):
        words = shlex.split(line, comments=True)
        name = next((word for word in words if word.endswith(SAMPLERS)), None)
        config = name and parse_arguments(words[words.index(name) + 1 :])[0]
        if config and not config.startswith("outputs/"):  # where commands before have made it
            find_config(config)


def test_what_is_not_run_is_in_the_readme():
    for words in NOT_RUN:
        assert any(words in line for line in README_COMMANDS), words


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the checkout without tests and without what runs left behind."""
    ignored = shutil.ignore_patterns(".*", "tests", "docs", "samples", "outputs", "drafts", "build", "__pycache__")
    return shutil.copytree(REPO_ROOT, tmp_path / "checkout", ignore=ignored)


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """Variables with an active environment that has the packages of this one and in which pip installs nothing."""
    folder = tmp_path / "env"
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin/python"
    python.write_text(f'#!/usr/bin/env bash\nif [[ "$1 $2" != "-m pip" ]]; then exec "{sys.executable}" "$@"; fi\n')
    python.chmod(0o755)
    own = {"VIRTUAL_ENV": str(folder), "PATH": f"{python.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def names(monkeypatch) -> dict[str, Any]:
    """What the readers of the blocks of Python are expected to have: a pipeline, or a model and its latents."""
    pipe = TINY["latte"].build()
    plain_call = type(pipe).__call__

    def call_without_text(self: Any, prompt: str) -> Any:
        return plain_call(self, **TINY["latte"].arguments())

    monkeypatch.setattr(type(pipe), "__call__", call_without_text)

    def model(latents: torch.Tensor, t: float, controller: StepController) -> torch.Tensor:
        branch = lambda: 1e-3 * latents  # noqa: E731
        site = Site("temporal", 13, "attn")
        return controller.stack(latents, lambda hidden_states: hidden_states + controller.branch(site, branch), 4)

    timesteps = [1000.0 * (1 - i / 30) for i in range(30)]
    own = {"num_steps": 30, "timesteps": timesteps, "latents": torch.ones(1, 16, 8), "step": lambda output, t: output}
    return {"pipe": pipe, "model": model, **own}


@pytest.mark.slow
@torch.no_grad()
def test_blocks_run_as_printed(checkout, environment, names, monkeypatch):
    """In the printed order, in one folder: what a later one needs, an earlier one has made."""
    monkeypatch.chdir(checkout)
    for language, text in [*blocks(README), *blocks(REPO_ROOT / "docs/how-it-works.md")]:
        if language == "python":
            exec(compile(text, "README.md", "exec"), names)
        for line in commands(text) if language == "bash" else ():
            if not any(words in line for words in NOT_RUN):
                done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True)
                assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings_handlers"):
        pytest.importorskip(package, reason="pip install -r requirements-docs.txt")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Open-Sora v1.2 with AdaCache" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'id="adacache.StepController.begin_step"' in (tmp_path / "api/adacache.html").read_text(encoding="utf-8")
    assert (tmp_path / "assets/images/comparison.webp").is_file()


@pytest.mark.slow
def test_the_notebook_runs_and_keeps_no_outputs(tmp_path, monkeypatch, capsys):
    notebook = json.loads((REPO_ROOT / "examples/first_hour.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    shown: list[Path] = []
    display = ModuleType("IPython.display")
    display.Image = lambda path, width: shown.append(Path(path).resolve())
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    (tmp_path / "examples").mkdir()
    monkeypatch.chdir(tmp_path / "examples")
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), "first_hour.ipynb", "exec"), names)
    assert [path.name for path in shown] == ["video.preview.webp", "trace.png", "comparison.preview.webp"]
    assert all(path.is_relative_to(tmp_path) and path.stat().st_size for path in shown)
    assert "20 of 30 steps: " in capsys.readouterr().out
