"""What a model is guided away from: its own empty caption, or the text encoder's opinion of a negative prompt."""

from __future__ import annotations

from opensora.config.kinds import kind_of
from opensora.config.schema import SampleConfig
from opensora.models.text_encoder.negative import NegativeTextEncoder
from opensora.models.text_encoder.t5 import CaptionEncoder, GuidedTextEncoder
from opensora.protocols import VideoModel
from opensora.schedulers.steps import TextEncoder


def negative_prompts(config: SampleConfig) -> list[str]:
    """What the text encoder has to read beside the prompts, with padding; nothing for models with an empty caption."""
    return [] if "negative_prompt" in kind_of(config.model.type).refused else [config.negative_prompt]


def with_guidance(text_encoder: CaptionEncoder | TextEncoder, model: VideoModel, config: SampleConfig) -> TextEncoder:
    """``text_encoder`` with what the unconditional half of a batch reads; one that has it already stays as it is."""
    if hasattr(text_encoder, "null"):
        return text_encoder
    if hasattr(model, "y_embedder"):
        return GuidedTextEncoder(text_encoder, model.y_embedder)
    return NegativeTextEncoder(text_encoder, config.negative_prompt)
