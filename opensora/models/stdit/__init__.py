"""The video diffusion transformer."""

from opensora.models.stdit.config import STDiT3Config
from opensora.models.stdit.stdit3 import STDiT3

__all__ = ["STDiT3", "STDiT3Config"]
