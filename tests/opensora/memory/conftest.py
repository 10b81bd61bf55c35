"""The small model at sizes of the tests' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from opensora.config.loading import load_config
from opensora.config.schema import SampleConfig
from support import small_model


@pytest.fixture(scope="session")
def mini() -> Callable[..., SampleConfig]:
    """Read a config, without a file the small model's, with flags by name and dotted options."""

    def load(file: str = small_model.ADACACHE, options: dict[str, Any] | None = None, **flags: Any) -> SampleConfig:
        return load_config(file, flags, options)

    return load
