"""The mini model at sizes of the tests' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from opensora.config.loading import load_config
from opensora.config.schema import SampleConfig


@pytest.fixture(scope="session")
def mini() -> Callable[..., SampleConfig]:
    """The mini config of a file in configs/mini, with flags by name and dotted options."""

    def load(file: str = "sample_adacache.py", options: dict[str, Any] | None = None, **flags: Any) -> SampleConfig:
        return load_config(f"configs/mini/{file}", flags, options)

    return load
