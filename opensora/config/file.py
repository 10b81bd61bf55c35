"""Finding a config file and reading its raw entries."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import TYPE_CHECKING

from opensora.utils.errors import ConfigError, one_line, suggest
from opensora.utils.files import find_path

if TYPE_CHECKING:
    from mmengine.config import Config


def find_config(path: str | os.PathLike[str]) -> Path:
    """The config file at ``path``, from the working directory or the repository's root.

    Raises:
        ConfigError: it does not exist (the nearest file of the same folder is suggested) or has no known suffix.
    """
    file = find_path(path)
    if file is None or not file.is_file():
        folder = find_path(Path(path).parent)
        names = [str(Path(path).parent / entry.name) for entry in folder.glob("*.py")] if folder else []
        hint = f"; {suggest(path, names)}" if names else ""
        raise ConfigError(f"config file '{path}' does not exist{hint}")
    if file.suffix not in (".py", ".yaml", ".yml", ".json"):
        raise ConfigError(f"config file '{path}' must be a .py, .yaml or .json file")
    return file


def read_config_file(file: Path) -> Config:
    """The entries of ``file`` merged over those of its ``_base_`` files.

    Raises:
        ConfigError: the file has a syntax error, or running it failed.
    """
    from mmengine.config import Config

    try:
        if file.suffix == ".py":
            # mmengine's own message about a syntax error does not name the file.
            ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
        return Config.fromfile(str(file), lazy_import=False)
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        raise ConfigError(f"{file}: {where}{error.msg}") from error
    except Exception as error:  # a config file is code: anything can happen in it
        raise ConfigError(f"{file} cannot be read: {type(error).__name__}: {one_line(error)}") from error
