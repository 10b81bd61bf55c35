"""Which prompt gets which reference: by an explicit list or by name, never by the order of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError
from opensora.files import find_path
from opensora.prompts.run_prompts import NumberedPrompt
from opensora.prompts.syntax import get_save_path_name

# Of several files with a prompt's name, the first kind counts: a video comes before its own animated preview.
_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".png", ".jpg", ".jpeg", ".webp", ".bmp")


def pair_references(config: SampleConfig, prompts: Sequence[NumberedPrompt]) -> dict[int, str]:
    """The references of every prompt by its index, "a.png;b.mp4" for two; "" for none.

    One folder is searched for files named like the samples (``sample_0003.png``, ``0003.png`` or ``3.png`` for prompt
    3, or as ``--prompt-as-path`` names it); where there is none, the missing name is returned as a path, to be
    reported with its prompt.

    Raises:
        ConfigError: neither one entry nor as many as prompts.
    """
    indices = list(dict.fromkeys(prompt.index for prompt in prompts))
    entries = config.reference_path or ()
    if len(entries) == 1 and (folder := find_path(entries[0])) is not None and folder.is_dir():
        texts = {prompt.index: prompt.text for prompt in prompts}
        return {index: str(_named(folder, index, texts[index], config.sample_name)) for index in indices}
    return _spread("reference_path", entries, indices)


def pair_strategies(config: SampleConfig, prompts: Sequence[NumberedPrompt]) -> dict[int, str]:
    """The mask strategy of every prompt by its index.

    Raises:
        ConfigError: neither one entry nor as many as prompts.
    """
    return _spread("mask_strategy", config.mask_strategy or (), list(dict.fromkeys(prompt.index for prompt in prompts)))


def _spread(name: str, entries: Sequence[str], indices: Sequence[int]) -> dict[int, str]:
    """One entry for all indices, or each its own."""
    if len(entries) <= 1:
        return dict.fromkeys(indices, *entries) if entries else {}
    if len(entries) != len(indices):
        folder = ", or --reference-path FOLDER with files named like the samples" if name == "reference_path" else ""
        raise ConfigError(
            f"{name} has {len(entries)} entries for {len(indices)} prompts; give one per prompt (separate several of "
            f"one prompt by ';') or one for all{folder}"
        )
    return dict(zip(indices, entries, strict=True))


def _named(folder: Path, index: int, text: str, sample_name: str | None) -> Path:
    """The file in ``folder`` that belongs to prompt ``index``, or the path where it was expected."""
    names = [get_save_path_name("", sample_name, index)]
    names += [f"sample_{index:04d}", f"{index:04d}", f"{index}"]
    names += [get_save_path_name("", sample_name, index, text, prompt_as_path=True)]
    for name in names:
        for suffix in _SUFFIXES:
            file = folder / f"{name}{suffix}"
            if file.is_file():
                return file
    return folder / f"{names[0]}.png"
