from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny_latte import (
    latte_config,
    open_sora_plan_config,
    write_config,
    write_latte,
    write_open_sora_plan,
)


@pytest.fixture(scope="session")
def latte_folder(tmp_path_factory) -> Path:
    """A tiny checkpoint of Latte."""
    return write_latte(tmp_path_factory.mktemp("latte"))


@pytest.fixture(scope="session")
def plan_folder(tmp_path_factory) -> Path:
    """A tiny checkpoint of Open-Sora-Plan."""
    return write_open_sora_plan(tmp_path_factory.mktemp("open_sora_plan"))


@pytest.fixture(scope="module", params=["latte", "open_sora_plan"])
def entries(request, latte_folder, plan_folder) -> dict:
    """Config entries of either model."""
    return latte_config(latte_folder) if request.param == "latte" else open_sora_plan_config(plan_folder)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, entries) -> Path:
    """The same as a file."""
    return write_config(tmp_path_factory.mktemp("config") / "config.py", entries)
