"""The oldest diffusers that is supported; the newest is the one that all other tests run with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest

from adacache.conformance.tiny import TINY
from adacache.integrations.diffusers import apply_adacache
from adacache.integrations.diffusers.pipeline import OLDEST_DIFFUSERS

ROOT = Path(__file__).resolve().parents[3]


def test_an_older_one_is_refused_in_words(monkeypatch):
    pipe = TINY["latte"].build()
    monkeypatch.setattr(diffusers, "__version__", "0.34.0")
    with pytest.raises(RuntimeError, match=rf"diffusers {OLDEST_DIFFUSERS} or newer, this is 0\.34\.0"):
        apply_adacache(pipe, "fast30")


def test_it_is_the_one_that_the_package_asks_for():
    assert f'"diffusers>={OLDEST_DIFFUSERS}"' in (ROOT / "setup.py").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("version", [OLDEST_DIFFUSERS])
def test_families_and_examples_pass_with_the_oldest(version, tmp_path):
    """Needs a package index, as set-up does."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, f"diffusers=={version}"], check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    asked = "import diffusers; print(diffusers.__version__)"
    found = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == version
    files = [f"tests/adacache/integrations/test_{name}.py" for name in ("families", "examples", "bad_input")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
