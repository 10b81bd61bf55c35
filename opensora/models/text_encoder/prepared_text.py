"""The text stage of a run: T5 is loaded if a caption is new, encodes what is new, and is gone before sampling."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from opensora.config.schema import SampleConfig
from opensora.models.text_encoder.cache_key import encoder_key
from opensora.models.text_encoder.embedding_cache import EmbeddingCache, EncodedCaption, cache_folder
from opensora.models.text_encoder.t5_loading import release_memory
from opensora.registry import MODELS, build_module
from opensora.utils.dtypes import DTYPES
from opensora.utils.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedText:
    """Captions that are encoded already; stands in for the text encoder.

    Attributes:
        captions: what was made of each.
        length: L, to which they are padded.
    """

    captions: Mapping[str, EncodedCaption]
    length: int

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """``y`` (B, 1, L, caption_channels) and ``mask`` (B, L) on the CPU, both zero at padding.

        Raises:
            LookupError: a prompt is not among the captions.
        """
        padded = [self._of(prompt).padded(self.length) for prompt in prompts]
        return {
            "y": torch.stack([y for y, _ in padded])[:, None],
            "mask": torch.stack([mask for _, mask in padded]),
        }

    def _of(self, prompt: str) -> EncodedCaption:
        if prompt not in self.captions:
            raise LookupError(f"the caption '{prompt}' was not encoded before the text encoder was released")
        return self.captions[prompt]


def all_kept(config: SampleConfig, captions: Sequence[str], device: torch.device | str) -> bool:
    """Whether ``encode_captions`` would find everything on disk and load no encoder."""
    folder = cache_folder(config.text_cache)
    if folder is None:
        return False
    cache = EmbeddingCache(folder, encoder_key(config.text_encoder, torch.device(device).type))
    return all(cache.get(caption) is not None for caption in dict.fromkeys(captions))


def encode_captions(
    config: SampleConfig, captions: Sequence[str], device: torch.device | str, progress: bool = True
) -> PreparedText:
    """Encode ``captions``, each by itself, or take them from the folder that ``config.text_cache`` names.

    The text encoder is loaded only if a caption is not in that folder, and is released before this returns.

    Args:
        config: with a local folder as ``text_encoder.from_pretrained``.
        captions: as the encoder reads them, cleaned; repetitions cost nothing.
        device: where the encoder runs.
        progress: show a bar.

    Raises:
        CheckpointError, WeightsError: the encoder cannot be loaded.
        ConfigError: it gives NaN or infinity, or streaming it has no room.
    """
    text, device = config.text_encoder, torch.device(device)
    wanted = list(dict.fromkeys(captions))
    folder = cache_folder(config.text_cache)
    cache = None if folder is None else EmbeddingCache(folder, encoder_key(text, device.type))
    kept = {} if cache is None else {caption: cache.get(caption) for caption in wanted}
    encoded = {caption: found for caption, found in kept.items() if found is not None}
    missing = [caption for caption in wanted if caption not in encoded]
    logger.info("text: %d captions, %d from the cache", len(wanted), len(encoded))
    if missing:
        try:
            for caption, result in zip(missing, _encode(config, missing, device, progress), strict=True):
                encoded[caption] = result
                if cache is not None:
                    cache.put(caption, result)
        finally:
            release_memory(device)
    if missing and cache is not None:
        cache.prune()
    return PreparedText(encoded, text.model_max_length)


def _encode(
    config: SampleConfig, captions: Sequence[str], device: torch.device, progress: bool
) -> Iterator[EncodedCaption]:
    """One after the other, so that no result depends on its neighbors; the encoder ends with the last one."""
    text = config.text_encoder
    logger.info("loading text encoder (%s)", text.from_pretrained)
    encoder = build_module(vars(text), MODELS, dtype=DTYPES[text.dtype], device=device)
    for caption in tqdm(captions, desc="encoding text", disable=not progress, leave=False):
        encoded = encoder.encode([caption])
        result = EncodedCaption.trimmed(encoded["y"][0, 0], encoded["mask"][0])
        if not torch.isfinite(result.y).all():
            raise ConfigError(
                f"the text encoder in {text.from_pretrained} gave NaN or infinity in {text.dtype} for '{caption}'; "
                "set text_encoder.dtype to bf16 or fp32"
            )
        yield result
