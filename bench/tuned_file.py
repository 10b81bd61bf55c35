"""Results of tuning on disk, so that they are never sampled twice: ``tuned.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adacache.atomic import atomic_path
from bench.policy_calibration import PolicyCalibration
from bench.setting import digest
from bench.tuning import Tried


class TunedFile:
    """What policies did on the tuning clips of one setting, and what was chosen of it.

    A file of another setting is begun anew.

    Args:
        setting: plain values that the results depend on.
    """

    def __init__(self, path: Path, setting: Mapping[str, Any]) -> None:
        self._path = path
        self._data: dict[str, Any] = {
            "setting": digest(setting),
            "policy_calibration": None,
            "tried": {},
            "chosen": {},
        }
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(kept, dict) and kept.keys() == self._data.keys() and kept["setting"] == self._data["setting"]:
            self._data = kept

    @property
    def policy_calibration(self) -> PolicyCalibration | None:
        """Constants of policies that were measured on this model, if they were."""
        data = self._data["policy_calibration"]
        return None if data is None else PolicyCalibration.from_dict(data)

    @policy_calibration.setter
    def policy_calibration(self, calibration: PolicyCalibration) -> None:
        self._data["policy_calibration"] = calibration.to_dict()
        self._save()

    def tried(self, options: Mapping[str, Any]) -> Tried | None:
        """What a policy with these options did, if it was run."""
        found = self._data["tried"].get(digest(options))
        return None if found is None else Tried(**found["result"])

    def keep_tried(self, options: Mapping[str, Any], result: Tried) -> None:
        """Note what a policy with these options did."""
        self._data["tried"][digest(options)] = {"options": dict(options), "result": result._asdict()}
        self._save()

    def chosen(self, policy: Mapping[str, Any], budget: int) -> dict[str, Any] | None:
        """What ``keep_chosen`` noted for a policy's way of being tuned and a budget."""
        return self._data["chosen"].get(f"{digest(policy)}@{budget}")

    def keep_chosen(self, policy: Mapping[str, Any], budget: int, options: Mapping[str, Any], steps: float) -> None:
        """Note the options that a search ended with, and the mean number of steps they compute."""
        self._data["chosen"][f"{digest(policy)}@{budget}"] = {"options": dict(options), "steps": steps}
        self._save()

    def _save(self) -> None:
        with atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps(self._data, indent=1) + "\n", encoding="utf-8")
