"""What a calibration holds for, and how to see that it was made for something else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opensora.config.schema import SampleConfig
from opensora.errors import WeightsError
from opensora.weights import weight_files

_PROBES = 64  # places of a file that are read
_PROBE_BYTES = 16_384

# Names of the conditions that a config alone answers, as a user would say them.
_NAMES = {
    "image_size": "image size (height, width)",
    "num_frames": "number of frames",
    "cfg_scale": "guidance scale",
    "solver": "solver",
}

_DEFAULT_CONDITIONS = {"solver": "euler"}  # what a calibration was made for that does not name the condition


def conditions_of(config: SampleConfig) -> dict[str, Any]:
    """The conditions of a run that can be told from its config, as plain values."""
    return {
        "image_size": [config.height, config.width],
        "num_frames": config.num_frames,
        "cfg_scale": config.scheduler.cfg_scale,
        "solver": config.scheduler.solver,
    }


def mismatch(conditions: Mapping[str, Any], config: SampleConfig) -> str | None:
    """Which condition ``config`` does not meet, in words; None when it meets all that it can be asked."""
    made_for = {**_DEFAULT_CONDITIONS, **conditions}
    for key, value in conditions_of(config).items():
        if key not in made_for:
            return f"it does not say for which {_NAMES[key]} it was made"
        if made_for[key] != value:
            return f"it was made for {_NAMES[key]} {made_for[key]}, this run has {value}"
    return None


def fingerprint(folder: str | Path) -> str:
    """A short hash of a model's weights: of samples from all over the files, so that large ones take no time.

    Raises:
        WeightsError: there are no weights, or the list of weight files cannot be read.
        OSError: a file cannot be read.
    """
    files = weight_files(Path(folder))
    if not files:
        raise WeightsError(f"{folder} holds no weights that could be told from others")
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for i in range(_PROBES):
                file.seek(max(0, size - _PROBE_BYTES) * i // (_PROBES - 1))
                digest.update(file.read(_PROBE_BYTES))
    return digest.hexdigest()[:16]
