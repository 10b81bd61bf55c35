"""What all tests share."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Not the user's own folder of encoded prompts; commands that tests start inherit it.
_TEXT_CACHE = tempfile.TemporaryDirectory(prefix="text-cache-")
os.environ["OPENSORA_TEXT_CACHE"] = _TEXT_CACHE.name

GOLDEN = Path(__file__).parent / "golden"


def pytest_collection_finish() -> None:
    """Looking for garbage among the million objects of imported libraries would take a twentieth of the time."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors are fastest on one thread, and results do not depend on the machine's core count."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def log_levels() -> None:
    """What a command that ran within another test or a fixture has set does not reach this one."""
    for name in ("opensora", "adacache", *logging.root.manager.loggerDict):
        if name.startswith(("opensora", "adacache")):
            logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference vectors; its README says where each comes from."""
    return GOLDEN
