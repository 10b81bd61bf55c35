"""The T5 text encoder: loaded whole, with 8-bit weights, or streamed from disk weight by weight.

Source: Open-Sora v1.2, `opensora/models/text_encoder/t5.py`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel, TorchAoConfig

from opensora.errors import ConfigError, WeightsError
from opensora.registry import MODELS
from opensora.weights import weight_files
from opensora.weights.layout import tokenizer_folder


@MODELS.register_module("t5")
class T5Encoder:
    """Encodes prompts to the last hidden states of a T5 encoder.

    Args:
        from_pretrained: a hub repository, or a folder, which is read without network and whose tokenizer may be in the
            folder `tokenizer` beside it.
        model_max_length: tokens per prompt; longer prompts are cut, shorter ones padded.
        device: where it computes; None: the CPU.
        dtype: floating-point type of the weights; upstream uses float32, whatever the dtype of the video model.
        quantize: "int8" keeps the weights of linear layers in 8 bits with a scale per row.
        stream: the weights of the blocks stay on disk; each is on `device` only while it is used. No result changes.

    Raises:
        WeightsError: the files are missing, damaged or do not fit their config.json.
        ConfigError: there is no room for the copy of the weights that streaming needs.
    """

    def __init__(
        self,
        from_pretrained: str | os.PathLike[str],
        model_max_length: int = 300,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        quantize: str | None = None,
        stream: bool = False,
        **ignored: Any,
    ):
        source, device = from_pretrained, "cpu" if device is None else str(device)
        local = Path(source).is_dir()
        options: dict[str, Any] = {}
        with ExitStack() as cleaning:
            if stream:
                copies = _folder_for_copies(Path(source))
                cleaning.callback(shutil.rmtree, copies, ignore_errors=True)
                options |= {"device_map": _streamed(device), "offload_folder": copies}
            with _load_errors(source):
                tokenizer = tokenizer_folder(Path(source)) or source
                self.tokenizer = AutoTokenizer.from_pretrained(tokenizer, local_files_only=local)
                if quantize == "int8":
                    options["quantization_config"] = _int8()
                model, found = T5EncoderModel.from_pretrained(
                    source,
                    dtype=dtype,
                    local_files_only=local,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    **options,
                )
            _check_complete(source, found)
            weakref.finalize(model, cleaning.pop_all().close)
        self.model = (model if stream else model.to(device)).eval()
        self.model_max_length = model_max_length

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode prompts, and count how many of their characters were read.

        Returns:
            `y` (B, 1, L, caption_channels), not zeroed at padding; the token `mask` (B, L); and `num_chars`
            (B,) on the CPU, how many characters of each prompt were read.
        """
        tokens = self.tokenizer(
            list(prompts),
            max_length=self.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        num_chars = torch.tensor(list(map(len, prompts)))
        for i, encoding in enumerate(tokens.encodings):
            if encoding.overflowing:  # tokens that did not fit
                num_chars[i] = max(encoding.offsets)[1]
        tokens = tokens.to(self.model.device)
        mask = tokens["attention_mask"]
        features = self.model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
        return {"y": features[:, None], "mask": mask, "num_chars": num_chars}


def _streamed(device: str) -> dict[str, str]:
    """Return the device map for streaming: only small weights stay on `device`, where blocks are computed, too."""
    return {
        "shared": device,
        "encoder.embed_tokens": device,
        "encoder.final_layer_norm": device,
        "encoder.block": "disk",
    }


def _folder_for_copies(source: Path) -> Path:
    """Make a temporary folder, to which weights that are not safetensors are copied before they can be streamed.

    Raises:
        ConfigError: it has no room for them.
    """
    files = [file for file in weight_files(source) if file.suffix != ".safetensors" and file.is_file()]
    needed = sum(file.stat().st_size for file in files)
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"text_encoder.stream copies the .bin weights in {source} first, {needed / 1e9:.1f} GB, but {folder} has "
            f"{free / 1e9:.1f} GB left; set TMPDIR to a folder with room, or store the weights as safetensors"
        )
    return Path(tempfile.mkdtemp(prefix="opensora-t5-", dir=folder))


def _int8() -> TorchAoConfig:
    from torchao.quantization import Int8WeightOnlyConfig  # an optional package

    return TorchAoConfig(Int8WeightOnlyConfig())


def _check_complete(source: str | os.PathLike[str], found: Mapping[str, Collection[Any]]) -> None:
    # transformers would replace them with random weights.
    unfit = [*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]
    if unfit:
        raise WeightsError(
            f"the text encoder in {source} does not fit its config.json: {len(unfit)} tensors are missing "
            f"or of another shape, such as {sorted(unfit)[0]}"
        )


@contextmanager
def _load_errors(source: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever transformers raises for files it cannot read into a WeightsError of one sentence."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WeightsError(f"the text encoder in {source} cannot be loaded: {reason}") from error
