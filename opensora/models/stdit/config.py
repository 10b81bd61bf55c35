"""Sizes of STDiT3, as the published `config.json` names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class STDiT3Config:
    """Sizes of STDiT3; the defaults are those of the published STDiT3-XL/2.

    Attributes:
        hidden_size: channels C of the hidden states.
        depth: pairs of a spatial and a temporal block.
        caption_channels, model_max_length: width and number of the text encoder's tokens.
        pred_sigma: the model predicts a second set of channels that sampling does not use.
        input_sq_size: side in pixels of the square the position embedding is made for.
    """

    in_channels: int = 4
    patch_size: tuple[int, int, int] = (1, 2, 2)
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    caption_channels: int = 4096
    model_max_length: int = 300
    qk_norm: bool = True
    pred_sigma: bool = True
    class_dropout_prob: float = 0.1
    input_sq_size: int = 512

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide into {self.num_heads} heads")
        if self.hidden_size % 4:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of 4 for the position embedding")
        if self.patch_size[0] != 1:
            raise ValueError(f"patch_size {self.patch_size} spans several latent frames; the first number must be 1")

    @property
    def out_channels(self) -> int:
        """Channels of the model's output."""
        return self.in_channels * (2 if self.pred_sigma else 1)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> STDiT3Config:
        """Read a `config.json`; keys that only concern training or kernels are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known})

    def to_dict(self) -> dict[str, Any]:
        """The contents of `config.json`."""
        return {"architectures": ["STDiT3"], "model_type": "STDiT3", **asdict(self)}
