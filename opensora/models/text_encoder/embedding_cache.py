"""Encoded captions kept on disk, so that a caption is encoded once and not in every run."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from adacache.atomic import atomic_path
from opensora.config.schema import TextEncoderConfig
from opensora.weights import fingerprint
from opensora.weights.layout import tokenizer_folder

logger = logging.getLogger(__name__)

OFF = "off"
SIZE_LIMIT = 2 * 1000**3  # bytes; some 4000 captions of 30 tokens from the published encoder
_FORMAT = 2  # part of the file names, so that files of another format are never read
_OWN_FILE = re.compile(r"\.?[0-9a-f]{64}\.safetensors(\.\w+\.tmp)?")  # the last part: left by a killed run
_TOKENIZER_FILES = (  # with the encoder's sizes: small files that change its output
    "config.json",
    "tokenizer.json",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class EncodedCaption:
    """A text encoder's output for one caption, up to its last real token or with all padding (`whole`).

    The output at padding is usually dropped, as transformers do not attend to it. They do for a negative prompt.

    Attributes:
        y: (tokens, caption_channels) on the CPU, in the encoder's dtype.
        mask: (tokens,) integers, non-zero at real tokens.
        num_chars: characters of the caption that the encoder read; it cuts long captions.
    """

    y: Tensor
    mask: Tensor
    num_chars: int

    @classmethod
    def trimmed(cls, y: Tensor, mask: Tensor, num_chars: int) -> Self:
        """Keep an encoder's output, (L, caption_channels) and (L,) on any device, up to the last real token."""
        mask = mask.cpu()
        real = mask.nonzero()
        tokens = int(real.max()) + 1 if len(real) else 0
        return cls(y[:tokens].cpu().clone(), mask[:tokens].clone(), num_chars)

    @classmethod
    def whole(cls, y: Tensor, mask: Tensor, num_chars: int) -> Self:
        """Keep an encoder's output with all padding."""
        return cls(y.cpu().clone(), mask.cpu().clone(), num_chars)

    def padded(self, length: int) -> tuple[Tensor, Tensor]:
        """Return `y` (length, caption_channels) and `mask` (length,), zero at padding that was not kept."""
        missing = length - len(self.mask)
        return F.pad(self.y, (0, 0, 0, missing)), F.pad(self.mask, (0, missing))


class EmbeddingCache:
    """A folder with one file per caption and encoder; several runs may use it at once.

    A folder that cannot be written costs one warning and the time to encode again, never a run.

    Args:
        folder: created when the first caption is kept.
        key: distinguishes encoders whose output for a caption differs, as `encoder_key` does.
    """

    def __init__(self, folder: Path, key: str):
        self.folder = folder
        self.key = key
        self._writable = True

    def path(self, caption: str) -> Path:
        """Return the file of `caption`, which need not exist."""
        name = hashlib.sha256("\0".join((str(_FORMAT), self.key, caption)).encode("utf-8", "surrogatepass"))
        return self.folder / f"{name.hexdigest()}.safetensors"

    def get(self, caption: str) -> EncodedCaption | None:
        """Return what was kept for `caption`; None if there is no file, or none that can be read."""
        path = self.path(caption)
        try:
            encoded = _read(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            logger.debug("text: %s is not used: %s", path, error)
            return None
        with contextlib.suppress(OSError):  # a read-only folder
            os.utime(path)  # what was used last is removed last
        return encoded

    def put(self, caption: str, encoded: EncodedCaption) -> None:
        """Keep `encoded` for `caption`, in place of an earlier entry."""
        if not self._writable:
            return
        tensors = {
            "y": encoded.y,
            "mask": encoded.mask,
            "num_chars": torch.tensor([encoded.num_chars]),
            "checksum": _checksum(encoded),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path(caption)) as temporary:
                temporary.write_bytes(save(tensors))
        except OSError as error:
            self._writable = False
            logger.warning(
                "WARNING encoded captions are not kept, as %s cannot be written (%s); set text_cache to another "
                "folder, or to 'off'",
                self.folder,
                (error.strerror or type(error).__name__).lower(),
            )

    def prune(self, limit: int = SIZE_LIMIT) -> None:
        """Remove the least recently used entries until the folder takes at most `limit` bytes."""
        try:
            files = [(path, path.stat()) for path in self.folder.iterdir() if _OWN_FILE.fullmatch(path.name)]
            excess = sum(status.st_size for _, status in files) - limit
            for path, status in sorted(files, key=lambda file: file[1].st_mtime):
                if excess <= 0:
                    break
                path.unlink(missing_ok=True)
                excess -= status.st_size
        except OSError as error:  # such as from another run that prunes at the same time
            logger.debug("text: %s was not pruned: %s", self.folder, error)


def cache_folder(text_cache: str | None) -> Path | None:
    """Return the folder that the config entry `text_cache` names; None if nothing is to be kept.

    Without an entry it is $OPENSORA_TEXT_CACHE, else `opensora-adacache/text` in $XDG_CACHE_HOME or ~/.cache.
    """
    chosen = text_cache or os.environ.get("OPENSORA_TEXT_CACHE")
    if chosen == OFF:
        return None
    try:
        if chosen:
            return Path(chosen).expanduser()
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None
    return Path(base) / "opensora-adacache" / "text"


def encoder_key(text: TextEncoderConfig, device_type: str) -> str:
    """Return a hash of everything that affects the encoder's output, other than the caption.

    The kind of device is part of it, because rounding differs; streaming is not, because it changes nothing.

    Args:
        device_type: "cpu" or "cuda".

    Raises:
        WeightsError: the encoder's folder holds no weights.
        OSError: a file cannot be read.
    """
    folder = Path(text.from_pretrained)
    settings = (fingerprint(folder), text.model_max_length, text.dtype, text.quantize, device_type)
    digest = hashlib.sha256(repr(settings).encode())
    for place in dict.fromkeys((folder, tokenizer_folder(folder) or folder)):
        for name in _TOKENIZER_FILES:
            file = place / name
            if file.is_file():
                digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


def _read(data: bytes) -> EncodedCaption:
    """Read one entry.

    Raises:
        SafetensorError, KeyError, ValueError: it is not as `EmbeddingCache.put` wrote it.
    """
    tensors = load(data)
    encoded = EncodedCaption(tensors["y"], tensors["mask"], int(tensors["num_chars"]))
    if not torch.equal(_checksum(encoded), tensors["checksum"]):
        raise ValueError("its checksum is wrong")
    return encoded


def _checksum(encoded: EncodedCaption) -> Tensor:
    """Return a checksum (1,) int64; without it, bytes that change on disk would silently change the video."""
    value = encoded.num_chars
    for tensor in (encoded.y, encoded.mask):
        value = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy(), value)
    return torch.tensor([value])
