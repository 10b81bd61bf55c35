"""Options that cannot work are refused before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from opensora.config.loading import load_config
from opensora.errors import ConfigError
from opensora.models import text_encoder
from opensora.models.text_encoder import check_text_options
from support import small_model

ROOT = Path(__file__).parents[4]


def checked(monkeypatch, installed: dict[str, str], **entries) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(text_encoder, "version", version)
    options = {f"text_encoder.{key}": value for key, value in entries.items()}
    check_text_options(load_config(small_model.SAMPLE, None, options))


def test_nothing_is_needed_by_default(monkeypatch):
    checked(monkeypatch, {})
    checked(monkeypatch, {"torchao": "0.18.0"}, quantize="int8")
    checked(monkeypatch, {"accelerate": "1.10.0"}, stream=True)


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"quantize": "int8"}, r"quantize='int8' needs torchao .* not installed; pip install 'torchao>=0.15.0'"),
        ({"stream": True}, r"stream needs accelerate .* is 0.9.0 here; pip install 'accelerate>=1.1.0'"),
        ({"quantize": "int8", "stream": True}, "cannot be combined"),
        ({"stream": True, "dtype": "fp16"}, "stream does not work .* set it to bf16 or fp32"),
        ({"quantize": "int8", "dtype": "fp16"}, "quantize does not work .* set it to bf16 or fp32"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(monkeypatch, entries, message):
    with pytest.raises(ConfigError, match=message) as caught:
        checked(monkeypatch, {"accelerate": "0.9.0"}, **entries)
    assert "\n" not in str(caught.value)


def test_checking_imports_nothing_heavy():
    code = "import sys, opensora.models.text_encoder; print({'torch', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "set()", result.stderr
