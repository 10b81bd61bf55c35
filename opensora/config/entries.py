"""The raw entries of a run: those of a config file, overridden by values of the command line."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine import fileio
from mmengine.config import Config

from adacache.calibration.target import TARGETS
from opensora.config.schema import FLAG_KEYS, SECTIONS, SampleConfig
from opensora.errors import ConfigError, one_line, shortened, suggest
from opensora.files import find_path

_SCHEDULES = (*TARGETS, "replay")
_MODES = ("draft", "final")  # may be combined with a target; without one, each has its own
_FRAME_RATES = ("fps", "frame_interval")  # save_fps follows from them, unless it is given, too

# Different ways to say the same thing: the one given on the command line retires the others, given in the file.
_ALTERNATIVES = {
    "image_size": ("resolution", "aspect_ratio"),
    "resolution": ("image_size",),
    "aspect_ratio": ("image_size",),
    "prompt": ("prompt_path", "end_index"),
    "prompt_path": ("prompt",),
    **{way: tuple(other for other in _SCHEDULES if other != way) for way in TARGETS},
    "replay": (*TARGETS, *_MODES),
    "draft": ("final", "replay", "num_sample"),
    "final": ("draft", "replay", "num_sample"),
    "num_sample": ("draft", "final"),
}

# Values of the command line that change no video, or only which videos of a folder are made.
_SAME_FOLDER = frozenset(
    {
        *("save_dir", "logdate_dir", "sample_name", "prompt_as_path", "start_index", "end_index", "num_sample"),
        *("draft", "final", "save_frames", "preview", "contact_sheet", "verbose", "resample", "weights_dir"),
        *("text_cache", "device", "batch_size", "sequence_parallel", "guidance_parallel", "llm_endpoint"),
    }
)
_FOLDERS = ("drafts", "final", "replaced", "reproduced")  # within a run's folder
_MAX_NAME = 60  # characters
# First words of the names of entries; the words of a prompt have hyphens between them, which names do not have.
_FIRST_WORDS = frozenset(
    name.split("_")[0]
    for cls in (SampleConfig, *SECTIONS["scheduler"])
    for name in (*cls.__pydantic_fields__, "resolution", "aspect_ratio")
)


def default_save_dir(path: str, given: Mapping[str, Any]) -> str:
    """Return the folder for results when none is named; different settings get different folders.

    An example is `samples/mini/sample_adacache/a-red-star_num_frames-34`: the config's path below `configs`, and the
    values of the command line.
    """
    return str(Path("samples", _name_of_config(path), name_of_overrides(given)))


def _name_of_config(path: str) -> Path:
    """Return a config's path below the folder `configs`, without its suffix; elsewhere, its name.

    Where `configs` holds another file under that name, or none, a hash of the path is added.
    """
    parts = Path(os.path.normpath(path)).parts
    start = max((i + 1 for i, part in enumerate(parts[:-1]) if part == "configs"), default=len(parts) - 1)
    name = Path(*parts[start:])
    file, known = find_path(path) or Path(path), find_path(Path("configs", name))
    if known is not None and name.suffix == ".py" and known.resolve() == file.resolve():
        return name.with_suffix("")
    # As seen from the working directory, which has the folder of results, too: both may be moved together.
    return name.with_name(f"{name.stem}-{_digest(os.path.relpath(file.resolve()))}")


def name_of_overrides(given: Mapping[str, Any]) -> str:
    """Return a folder name for values of the command line; "" if none of them changes a video.

    Where the readable part does not determine the values, a hash is added.
    """
    telling = {key: value for key, value in sorted(given.items()) if key not in _SAME_FOLDER}
    texts, is_exact = [], True
    for key, value in sorted(telling.items(), key=lambda item: item[0] != "prompt"):
        values = value if isinstance(value, list | tuple) else [value]
        text = "-".join(map(str, values)).replace(" ", "-")
        plain = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
        is_exact &= plain == text and "--" not in text and not (key == "prompt" and len(values) > 1)
        is_exact &= not any(("-" if key == "prompt" else " ") in str(value) for value in values)
        is_exact &= key != "prompt" or not _reads_as_a_setting(plain)
        texts.append(plain if key == "prompt" else f"{key.removeprefix('scheduler.')}-{plain}")
    name = "_".join(texts)
    if is_exact and len(name) <= _MAX_NAME and name not in _FOLDERS:
        return name
    return f"{name[:_MAX_NAME].rstrip('-_')}-{_digest(json.dumps(telling, default=str))}".lstrip("-")


def _reads_as_a_setting(prompt: str) -> bool:
    """Whether a prompt's part of a name begins as an entry's does: "aes-7" may be a prompt or `aes=7`."""
    word = prompt.split("-")[0]
    return "." in word or word in _FIRST_WORDS


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]


def find_config(path: str | os.PathLike[str]) -> Path:
    """Find the config file at `path`, from the working directory or the repository's root.

    Raises:
        ConfigError: it does not exist (the nearest file of the same folder is suggested), is a folder, or has no known
            suffix.
    """
    file = find_path(path)
    if file is not None and file.is_dir():
        raise ConfigError(f"config file '{path}' is a folder; give a file in it, such as configs/mini/sample.py")
    if file is None or not file.is_file():
        folder = find_path(Path(path).parent)
        names = [str(Path(path).parent / entry.name) for entry in folder.glob("*.py")] if folder else []
        hint = f"; {suggest(path, names)}" if names else ""
        if " " in str(path):
            hint = "; a prompt is given as --prompt and in quotes"
        raise ConfigError(f"config file '{shortened(path)}' does not exist{hint}")
    if file.suffix not in (".py", ".yaml", ".yml", ".json"):
        raise ConfigError(f"config file '{path}' must be a .py, .yaml or .json file")
    return file


def read_config_file(file: Path) -> Config:
    """Read the entries of `file`, merged over those of its `_base_` files.

    Raises:
        ConfigError: the file has a syntax error, running it failed, or it holds something other than entries.
    """
    try:
        # mmengine's own messages about such mistakes do not name the file, or speak of mmengine's internals.
        _check_python(file, ()) if file.suffix == ".py" else _check_data(file)
        return Config.fromfile(str(file), lazy_import=False)
    except ConfigError:
        raise
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        raise ConfigError(f"{file}: {where}{error.msg}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except RecursionError as error:
        raise ConfigError(f"{file} is nested too deeply to be read") from error
    except SystemExit as error:
        raise ConfigError(f"{file} ends the program (SystemExit); a config file only sets entries") from error
    except Exception as error:  # a config file is code: anything can happen in it
        raise ConfigError(f"{file} cannot be read: {type(error).__name__}: {one_line(error)}") from error


def _check_python(file: Path, heirs: tuple[Path, ...]) -> None:
    """Check a Python config file and those of its `_base_`.

    Args:
        heirs: the files that inherit from it.

    Raises:
        SyntaxError, UnicodeDecodeError: it is not Python.
        ConfigError: its `_base_` names no files, or leads back to itself.
    """
    heirs = (*heirs, file.resolve())
    for node in ast.parse(file.read_text(encoding="utf-8"), filename=str(file)).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if not any(isinstance(target, ast.Name) and target.id == "_base_" for target in targets):
            continue
        for part in node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]:
            name = part.value if isinstance(part, ast.Constant) else ""  # other expressions are left to mmengine
            if not isinstance(name, str):
                raise ConfigError(f"{file}: line {node.lineno}: _base_ must be a path or a list of paths")
            base = file.parent / name
            if name and not Path(name).is_absolute() and "{{" not in name and "::" not in name and not base.is_file():
                raise ConfigError(f"{file}: line {node.lineno}: its _base_ '{name}' does not exist; {_place_of(base)}")
            if base.resolve() in heirs:
                raise ConfigError(f"{file}: line {node.lineno}: its _base_ '{name}' leads back to itself")
            if base.suffix == ".py" and base.is_file():
                _check_python(base, heirs)


def _place_of(base: Path) -> str:
    """Suggest how to write `_base_` if the config was moved away from its `base`."""
    found = sorted((find_path("configs") or Path()).rglob(base.name), key=lambda file: file.parent.name != "mini")
    found = [file for file in found if base.parent.name != "_base_" or file.parent.name == "_base_"]
    paths = " or ".join(f"'{file.resolve()}'" for file in found)
    return f"write _base_ = {paths}" if paths else "give its path from the folder of this file"


def _check_data(file: Path) -> None:
    """Refuse a yaml or json file that does not hold entries by name."""
    content = fileio.load(str(file))
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        what = "is empty" if content is None else "does not hold entries by name"
        raise ConfigError(f"{file} {what}; write 'key: value' as in configs/mini/sample.py, or a JSON object")


def dotted_overrides(
    overrides: Mapping[str, Any] | None, cfg_options: Mapping[str, Any] | None, by_hand: str = "command line"
) -> dict[str, Any]:
    """Return all command-line values by dotted config key; flags win over `--cfg-options`, None means not set.

    Args:
        by_hand: where the values come from, as errors begin.

    Raises:
        ConfigError: two values cannot be combined, or the number of steps is set in a second place.
    """
    given = dict(cfg_options or {})
    for name, value in (overrides or {}).items():
        if value is not None:
            given[FLAG_KEYS.get(name, name)] = value
    if given.get("watermark_text") is not None:
        given.setdefault("watermark", True)
    if "model.num_sampling_steps" in given:
        raise ConfigError(
            "command line: model.num_sampling_steps has no effect; set --num-sampling-steps "
            "(scheduler.num_sampling_steps), the one source of the number of steps"
        )
    for key, others in _ALTERNATIVES.items():
        for other in others:
            if key in given and other in given and None not in (given[key], given[other]):
                raise ConfigError(f"{by_hand}: {key} and {other} cannot be combined; give only one of them")
    return given


def without_alternatives(given: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `given` values of a run without those that the overrides of one prompt's `line` set in another way."""
    retired = {other for name in line for other in _ALTERNATIVES.get(name, ())}
    return {key: value for key, value in given.items() if key not in retired}


def merge_into_file(config: Config, given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the entries of a config with the dotted `given` values merged in.

    Raises:
        ConfigError: a dotted key leads through an entry that is not a section.
    """
    try:
        config.merge_from_dict(dict(given))
    except (TypeError, KeyError, AttributeError) as error:
        sections = " or ".join(sorted({key.split(".")[0] for key in given if "." in key}))
        raise ConfigError(f"command line: {path} has no dict '{sections}' to set an entry of") from error
    retired = retired_by(given)
    return {key: value for key, value in config.to_dict().items() if key not in retired}


def retired_by(given: Mapping[str, Any]) -> set[str]:
    """Return the entries of a config that no longer count, as `given` says the same thing in another way."""
    retired = {other for key, others in _ALTERNATIVES.items() if given.get(key) is not None for other in others}
    if any(given.get(mode) is not None for mode in _MODES):
        retired.update(name for name in TARGETS if given.get(name) is None)
    if any(given.get(name) is not None for name in _FRAME_RATES) and given.get("save_fps") is None:
        retired.add("save_fps")
    return retired
