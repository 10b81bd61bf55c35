"""The tiny reference models of the golden vectors, and a text encoder that replays stored features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from opensora.models.stdit import STDiT3

SIZE_KEYS = ("height", "width", "num_frames", "ar", "fps")


class StoredText:
    """Text encoder whose features come from the inputs of one golden case."""

    def __init__(self, tensors: Mapping[str, Tensor], case: str):
        self._y = tensors[f"{case}.y"]
        self._mask = tensors[f"{case}.y_mask"]
        self._null = tensors[f"{case}.y_null"]

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"y": self._y, "mask": self._mask}

    def null(self, n: int) -> Tensor:
        return self._null


def stored_size(tensors: Mapping[str, Tensor], case: str) -> dict[str, Tensor]:
    """The size arguments of one golden case."""
    return {key: tensors[f"{case}.{key}"] for key in SIZE_KEYS}


def load_reference(golden: Path, name: str) -> STDiT3:
    """``name`` is 'main' (3 block pairs) or '100' (2 block pairs, for the 100-step cases)."""
    return STDiT3.from_pretrained(golden / ("stdit3/model" if name == "main" else "adacache/model_100"))
