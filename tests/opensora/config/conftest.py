"""Tiny checkpoints of Latte and Open-Sora-Plan, and configs of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opensora.config.loading import load_config
from opensora.config.schema import SampleConfig
from support import tiny_latte

Load = Callable[..., SampleConfig]


@pytest.fixture(scope="session")
def latte_folder(tmp_path_factory) -> Path:
    return tiny_latte.write_latte(tmp_path_factory.mktemp("latte"))


@pytest.fixture(scope="session")
def plan_folder(tmp_path_factory) -> Path:
    return tiny_latte.write_open_sora_plan(tmp_path_factory.mktemp("plan"))


@pytest.fixture(scope="session")
def latte(latte_folder, tmp_path_factory) -> Load:
    """The config of a tiny Latte with flags by name and dotted options."""
    return _loader(tmp_path_factory, tiny_latte.latte_config(latte_folder))


@pytest.fixture(scope="session")
def plan(plan_folder, tmp_path_factory) -> Load:
    """The same of a tiny Open-Sora-Plan."""
    return _loader(tmp_path_factory, tiny_latte.open_sora_plan_config(plan_folder))


def _loader(tmp_path_factory, entries: dict[str, Any]) -> Load:
    path = tiny_latte.write_config(tmp_path_factory.mktemp("config") / "config.py", entries)

    def load(options: dict[str, Any] | None = None, **flags: Any) -> SampleConfig:
        return load_config(path, flags, options)

    return load
