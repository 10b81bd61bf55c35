"""Copy sampled videos to the names that VBench looks for.

    FOLDER/videos/{prompt}-{index}.mp4    index 0, 1, ... of the videos of one prompt; nothing else is here
    FOLDER/prompts.json                   {file name: prompt}, for names that cannot hold their prompt

    vbench evaluate --videos_path FOLDER/videos --dimension ...          # prompts of its standard suite
    vbench evaluate --videos_path FOLDER/videos --dimension ... --mode custom_input --prompt_file FOLDER/prompts.json

Source: https://github.com/Vchitect/VBench, vbench/__init__.py (build_full_info_json) and evaluate.py.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adacache.atomic import atomic_path
from bench.compare.pairs import ClipFiles, NotCompared, find_clips
from opensora.errors import ConfigError

VIDEOS, PROMPTS = "videos", "prompts.json"
STANDARD_SAMPLES = 5  # videos per prompt that the standard suite reads

_UNSAFE = re.compile(r"[/\x00-\x1f]")
# Of the 255 bytes that file systems give a name, atomic_path's temporary one takes 14, and "-0000.mp4" 9.
MAX_PROMPT_BYTES = 255 - 14 - 9


@dataclass(frozen=True)
class VBenchExport:
    """What was exported to `folder`.

    Attributes:
        prompts: the prompt of each file in `folder`/videos.
        left_out: clips that VBench could not read or name, and why.
        notes: sentences on what its standard suite would not find.
    """

    folder: Path
    prompts: dict[str, str]
    left_out: list[NotCompared]
    notes: list[str]


def export_vbench(samples: Path, folder: Path) -> VBenchExport:
    """Copy the mp4s of a folder of samples to `folder` for VBench; those of an earlier export are replaced.

    Raises:
        ConfigError: there is no such folder, clip or exportable video, or `folder` holds other files, which VBench
            would evaluate, too.
        OSError: the disk refuses.
    """
    chosen, left_out = _exportable(find_clips(samples).values())
    if not chosen:
        raise ConfigError(f"nothing to export in '{samples}': {left_out[0].name} has {left_out[0].reason}")
    names = video_names([clip.record.prompt for clip in chosen])
    videos = folder / VIDEOS
    _check_free(videos, names)
    videos.mkdir(parents=True, exist_ok=True)
    for clip, name in zip(chosen, names, strict=True):
        with atomic_path(videos / name) as temporary:
            shutil.copyfile(clip.video, temporary)
    prompts = {name: clip.record.prompt for name, clip in zip(names, chosen, strict=True)}
    with atomic_path(folder / PROMPTS) as temporary:
        # ASCII only: VBench opens the file in the encoding of the user's locale.
        temporary.write_text(json.dumps(prompts, indent=1) + "\n", encoding="ascii")
    return VBenchExport(folder, prompts, left_out, _notes(prompts))


def video_names(prompts: Iterable[str]) -> list[str]:
    """Return `{prompt}-{index}.mp4` for each prompt; the index counts videos of the same name.

    A slash or a control character becomes "_" and a prompt of more than 232 bytes is cut; VBench's standard suite does
    not look for such names, but for all others.
    """
    used: Counter[str] = Counter()
    names = []
    for prompt in prompts:
        stem = _file_name(prompt)
        key = stem.casefold()  # some file systems do not tell case apart
        names.append(f"{stem}-{used[key]}.mp4")
        used[key] += 1
    return names


def _file_name(prompt: str) -> str:
    safe = _UNSAFE.sub("_", prompt) or "_"
    return safe.encode()[:MAX_PROMPT_BYTES].decode(errors="ignore")


def _exportable(clips: Iterable[ClipFiles]) -> tuple[list[ClipFiles], list[NotCompared]]:
    chosen, left_out = [], []
    for clip in clips:
        if clip.video is None:
            left_out.append(NotCompared(clip.name, "no mp4"))
        elif clip.record.prompt is None:
            left_out.append(NotCompared(clip.name, f"no prompt: {clip.name}.json is missing or holds none"))
        else:
            chosen.append(clip)
    return chosen, left_out


def _check_free(videos: Path, names: Iterable[str]) -> None:
    others = {path.name for path in videos.iterdir()} - set(names) if videos.is_dir() else set()
    if others:
        raise ConfigError(
            f"'{videos}' holds other files, e.g. '{min(others)}', which VBench would take for samples; "
            "choose an empty folder"
        )


def _notes(prompts: dict[str, str]) -> list[str]:
    notes = []
    changed = sum(not name.startswith(f"{prompt}-") for name, prompt in prompts.items())
    if changed:
        notes.append(
            f"{changed} prompts are too long for a file name or hold characters that it cannot; for these, "
            f"VBench needs --mode custom_input --prompt_file {PROMPTS}"
        )
    most = max(Counter(prompts.values()).values())
    if most > STANDARD_SAMPLES:
        notes.append(f"VBench's standard suite reads {STANDARD_SAMPLES} videos of a prompt; one has {most}")
    return notes
