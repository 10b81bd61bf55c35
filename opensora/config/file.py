"""Finding a config file and reading its raw entries."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import TYPE_CHECKING

from opensora.errors import ConfigError, one_line, shortened, suggest
from opensora.files import find_path

if TYPE_CHECKING:
    from mmengine.config import Config


def find_config(path: str | os.PathLike[str]) -> Path:
    """The config file at ``path``, from the working directory or the repository's root.

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
        raise ConfigError(f"config file '{shortened(path)}' does not exist{hint}")
    if file.suffix not in (".py", ".yaml", ".yml", ".json"):
        raise ConfigError(f"config file '{path}' must be a .py, .yaml or .json file")
    return file


def read_config_file(file: Path) -> Config:
    """The entries of ``file`` merged over those of its ``_base_`` files.

    Raises:
        ConfigError: the file has a syntax error, running it failed, or it holds something else than entries.
    """
    from mmengine.config import Config

    try:
        # mmengine's own messages about such mistakes do not name the file, or tell of its insides.
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
    """Check a file and those of its ``_base_``.

    Args:
        heirs: the files that inherit from it.

    Raises:
        SyntaxError, UnicodeDecodeError: it is no Python.
        ConfigError: its ``_base_`` names no files, or leads back to itself.
    """
    heirs = (*heirs, file.resolve())
    for node in ast.parse(file.read_text(encoding="utf-8"), filename=str(file)).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if not any(isinstance(target, ast.Name) and target.id == "_base_" for target in targets):
            continue
        for part in node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]:
            name = part.value if isinstance(part, ast.Constant) else ""  # another expression: mmengine sees
            if not isinstance(name, str):
                raise ConfigError(f"{file}: line {node.lineno}: _base_ must be a path or a list of paths")
            base = file.parent / name
            if base.resolve() in heirs:
                raise ConfigError(f"{file}: line {node.lineno}: its _base_ '{name}' leads back to itself")
            if base.suffix == ".py" and base.is_file():
                _check_python(base, heirs)


def _check_data(file: Path) -> None:
    """Raises: ConfigError: a yaml or json file holds something else than entries by name."""
    from mmengine.fileio import load

    content = load(str(file))
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        what = "is empty" if content is None else "does not hold entries by name"
        raise ConfigError(f"{file} {what}; write 'key: value' as in configs/mini/sample.py, or a JSON object")
