"""The small model at a size that is sampled in a tenth of a second."""

from __future__ import annotations

import pytest

from opensora.config.loading import load_config
from opensora.pipeline import SamplingPipeline
from support import small_model

NUM_STEPS = 10


@pytest.fixture(scope="session")
def options() -> dict[str, object]:
    """Config options of all runs here."""
    return {"scheduler.num_sampling_steps": NUM_STEPS, "image_size": (32, 48)}


@pytest.fixture(scope="session")
def pipe(options) -> SamplingPipeline:
    return SamplingPipeline.from_config(load_config(small_model.SAMPLE, None, options))
