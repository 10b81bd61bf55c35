"""The text stage of a run: T5 is loaded if a caption is new, encodes what is new, and is released before sampling."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from opensora.config.schema import SampleConfig
from opensora.device import DTYPES, release_memory
from opensora.errors import ConfigError
from opensora.models.text_encoder.embedding_cache import EmbeddingCache, EncodedCaption, cache_folder, encoder_key
from opensora.models.text_encoder.encoded_text import cut_lines, shorter_line
from opensora.registry import MODELS, build_module

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedText:
    """Captions that are encoded already; it stands in for the text encoder.

    Attributes:
        captions: caption -> its features.
        length: L, the number of tokens that they are padded to.
    """

    captions: Mapping[str, EncodedCaption]
    length: int

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return `y` (B, 1, L, caption_channels) and `mask` (B, L) on the CPU, zero at padding that was not kept.

        Raises:
            LookupError: a prompt is not among the captions.
        """
        missing = next((prompt for prompt in prompts if prompt not in self.captions), None)
        if missing is not None:
            raise LookupError(f"the caption '{missing}' was not encoded before the text encoder was released")
        padded = [self.captions[prompt].padded(self.length) for prompt in prompts]
        return {
            "y": torch.stack([y for y, _ in padded])[:, None],
            "mask": torch.stack([mask for _, mask in padded]),
        }


def all_kept(
    config: SampleConfig, captions: Sequence[str], device: torch.device | str, whole: Set[str] = frozenset()
) -> bool:
    """Whether `encode_captions` would find everything on disk and load no encoder."""
    caches = _caches(config, torch.device(device))
    if caches is None:
        return False
    trimmed = [caption for caption in dict.fromkeys(captions) if caption not in whole]
    return all(caches[False].get(caption) is not None for caption in trimmed) and all(
        caches[True].get(caption) is not None for caption in whole
    )


def encode_captions(
    config: SampleConfig,
    captions: Sequence[str],
    device: torch.device | str,
    progress: bool = True,
    whole: Set[str] = frozenset(),
    quiet: bool = False,
) -> PreparedText:
    """Encode `captions`, each by itself, or take them from the folder that `config.text_cache` names.

    The text encoder is loaded only if a caption is not in that folder, and is released before this returns. The log
    says which captions it cut, and whether a negative prompt is longer than prompts.

    Args:
        config: with a local folder as `text_encoder.from_pretrained`.
        captions: as the encoder reads them, cleaned; repetitions cost nothing.
        device: where the encoder runs.
        progress: show a bar.
        whole: captions whose features at padding are kept, too, such as a negative prompt; they need not be among
            `captions`.
        quiet: log no warnings, as another process does.

    Raises:
        WeightsError: the encoder cannot be loaded.
        ConfigError: its features have NaN or infinity, or there is no room to stream it.
    """
    text, device = config.text_encoder, torch.device(device)
    wanted = list(dict.fromkeys([*captions, *whole]))
    caches = _caches(config, device)
    kept = {} if caches is None else {caption: caches[caption in whole].get(caption) for caption in wanted}
    encoded = {caption: found for caption, found in kept.items() if found is not None}
    missing = [caption for caption in wanted if caption not in encoded]
    plural = "s" * (len(wanted) != 1)
    logger.info("text: %d caption%s, %d from the cache", len(wanted), plural, len(encoded))
    if missing:
        try:
            for caption, result in zip(missing, _encode(config, missing, device, progress, whole), strict=True):
                encoded[caption] = result
                if caches is not None:
                    caches[caption in whole].put(caption, result)
        finally:
            release_memory(device)
    if missing and caches is not None:
        caches[False].prune()
    for what, texts in () if quiet else (("prompt", captions), ("negative prompt", whole)):
        num_chars = [encoded[caption].num_chars for caption in texts]
        for line in cut_lines(what, texts, num_chars, text.model_max_length):
            logger.warning("WARNING %s", line)
    for negative in () if quiet else whole:
        line = shorter_line((encoded[caption].mask for caption in dict.fromkeys(captions)), encoded[negative].mask)
        if line is not None:
            logger.warning("WARNING %s", line)
    return PreparedText(encoded, text.model_max_length)


def _caches(config: SampleConfig, device: torch.device) -> dict[bool, EmbeddingCache] | None:
    """Return the caches of captions, by whether they keep padding, too; None if nothing is kept."""
    folder = cache_folder(config.text_cache)
    if folder is None:
        return None
    key = encoder_key(config.text_encoder, device.type)
    return {False: EmbeddingCache(folder, key), True: EmbeddingCache(folder, f"{key} whole")}


def _encode(
    config: SampleConfig, captions: Sequence[str], device: torch.device, progress: bool, whole: Set[str]
) -> Iterator[EncodedCaption]:
    """Encode captions one by one, so that no result depends on its neighbors; the encoder is freed after the last."""
    text = config.text_encoder
    logger.info("loading text encoder (%s)", text.from_pretrained)
    encoder = build_module(vars(text), MODELS, dtype=DTYPES[text.dtype], device=device)
    for caption in tqdm(captions, desc="encoding text", disable=not progress, leave=False):
        encoded = encoder.encode([caption])
        keep = EncodedCaption.whole if caption in whole else EncodedCaption.trimmed
        result = keep(encoded["y"][0, 0], encoded["mask"][0], int(encoded["num_chars"]))
        if not torch.isfinite(result.y).all():
            raise ConfigError(
                f"the text encoder in {text.from_pretrained} gave NaN or infinity in {text.dtype} for '{caption}'; "
                "set text_encoder.dtype to bf16 or fp32"
            )
        yield result
