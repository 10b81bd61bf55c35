"""The house: who may import whom. Imports are read from the source, those inside of functions, too."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from opensora.environment import requirements
from opensora.files import REPO_ROOT

# Each room may import from those after it.
ROOMS = ("scripts", "bench", "mini", "opensora", "adacache")


def modules(room: str) -> Iterator[Path]:
    """Source files of a room."""
    return (path for path in sorted((REPO_ROOT / room).rglob("*.py")) if "__pycache__" not in path.parts)


def imports_from(path: Path, when_it_runs: bool = True) -> Iterator[tuple[str, list[str]]]:
    """Modules that a file imports from, with the names it takes; not what only a type checker reads, if asked."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if when_it_runs and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module, [alias.name for alias in node.names]


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports from."""
    return (module for module, _ in imports_from(path))


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_one_way(room):
    forbidden = (*ROOMS[: ROOMS.index(room)], "tests", "support")
    files = list(modules(room))
    back = [
        f"{path.relative_to(REPO_ROOT)} imports {name}"
        for path in files
        for name in imported(path)
        if name.split(".")[0] in forbidden
    ]
    assert files
    assert not back


def test_the_parts_of_the_sampler_point_one_way_too():
    """Commands stand above the pipeline, that above all else, and no part needs itself by way of others."""
    arrows: dict[str, set[str]] = {}
    for path in modules("opensora"):
        if path.name == "__main__.py":  # the door of a command, whichever folder it is in
            continue
        part = path.relative_to(REPO_ROOT / "opensora").parts[0].removesuffix(".py")
        parts = {name.split(".")[1] for name in imported(path) if name.startswith("opensora.")}
        arrows.setdefault(part, set()).update(parts - {part})
    assert {part for part, needed in arrows.items() if "cli" in needed} == {"commands", "doctor", "studio"}
    assert {part for part, needed in arrows.items() if "pipeline" in needed} == {"cli", "commands", "studio"}
    assert {part for part, needed in arrows.items() if "studio" in needed} == {"commands"}
    assert not {part for part, needed in arrows.items() if "commands" in needed}  # but __main__, a door
    assert arrows["errors"] == set()
    assert list(TopologicalSorter(arrows).static_order())  # raises CycleError where they form a circle


# Packages that requirements.txt does not name, and those that only a part of the library's users have.
OPTIONAL = {
    "adacache": {"cache_dit", "diffusers", "matplotlib", "tqdm"},
    "opensora": {"accelerate", "bitsandbytes", "colossalai", "gradio", "starlette", "torchao", "triton"},
    "bench": {"lpips", "torchvision"},
    "mini": set(),
}
# Files that may wait with an import, and what for.
LATE = {
    "adacache/conformance/__main__.py": "--help answers before torch is loaded",
    "opensora/cli/arguments.py": "--help answers before mmengine is loaded",
    "opensora/cli/doctor.py": "it reports where a package cannot be imported",
    "opensora/device.py": "torch's compiler takes seconds to import",
}
COMMANDS = "opensora/commands/"  # these check arguments before they load torch, as scripts do


def may_wait(path: Path) -> bool:
    """Whether a file may import within functions."""
    name = path.relative_to(REPO_ROOT).as_posix()
    return name in LATE or name.startswith(COMMANDS)


@pytest.mark.parametrize("room", OPTIONAL)
def test_no_function_hides_an_import(room):
    """A file's head says what it needs. Only commands may wait: they check arguments before they load torch."""
    hidden = []
    for path in modules(room):
        if may_wait(path):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        for node in {node for function in functions for node in ast.walk(function)}:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            hidden += [
                f"{path.relative_to(REPO_ROOT)}:{node.lineno} imports {name}"
                for name in names
                if name.split(".")[0] not in OPTIONAL[room]
            ]
    assert not hidden


def test_every_package_that_is_imported_is_required():
    """Also one that others happen to bring along."""
    required = {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in requirements()}
    distributions = packages_distributions()
    missing = {
        name
        for room in ("adacache", "opensora")
        for path in modules(room)
        for name in {module.split(".")[0] for module in imported(path)} - OPTIONAL["opensora"] - {"cache_dit"}
        if name not in sys.stdlib_module_names
        and name not in ROOMS
        and not required & {found.lower().replace("_", "-") for found in distributions.get(name, [])}
    }
    assert not missing


@pytest.mark.parametrize("room", ROOMS[1:])
def test_no_file_needs_itself(room):
    """Files of a room form no circle, be it of late imports or of what only a type checker reads."""
    arrows: dict[str, set[str]] = {}
    files = {".".join(path.relative_to(REPO_ROOT).with_suffix("").parts): path for path in modules(room)}
    names = {name.removesuffix(".__init__"): path for name, path in files.items()}
    for name, path in names.items():
        needed = arrows.setdefault(name, set())
        for module, members in imports_from(path, when_it_runs=False):
            # ``from package import module`` needs the module, ``from package import name`` the package.
            needed.update(full for member in members if (full := f"{module}.{member}") in names)
            if module in names and not all(f"{module}.{member}" in names for member in members):
                needed.add(module)
        needed.discard(name)
    assert list(TopologicalSorter(arrows).static_order())  # raises CycleError where they form a circle


def test_the_library_needs_nothing_but_torch_to_be_imported():
    """What it imports beside torch is asked for where it is used: pictures, and pipelines of diffusers."""
    allowed = {*sys.stdlib_module_names, "adacache", "torch", "numpy"}
    optional = {"matplotlib", "diffusers", "tqdm"}
    at_once = []
    for path in modules("adacache"):
        if {"integrations", "conformance"} & set(path.parts):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            at_once += [f"{path.name}: {name}" for name in names if name.split(".")[0] not in allowed]
        rest = {name.split(".")[0] for name in imported(path)} - allowed - optional
        assert not rest, f"{path} imports {rest}"
    assert not at_once


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_are_in_one_dialect(room):
    """Markdown's backticks, and sections with a line of their own."""
    other = []
    for path in modules(room):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]
        other += [f"{path.name}: {text}" for text in texts if re.search(r"``|^(Args|Returns|Raises): \S", text, re.M)]
    assert not other
