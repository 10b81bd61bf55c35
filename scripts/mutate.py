"""Change single expressions of the source and report which changes no test notices.

    python scripts/mutate.py adacache --sample 150 --seed 1

Every change runs in a fork of an interpreter that has imported torch and pytest, in a copy of the tree, against the
tests whose names hold that of the module and then the rest of its folder's, up to the first failure.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import copy
import importlib
import os
import py_compile
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()
for name in [name for name in sys.modules if name.split(".")[0] == "opensora"]:
    del sys.modules[name]  # forks import the changed copy's

WARM = ("pytest", "torch", "hypothesis", "transformers", "diffusers", "diffusers.hooks.hooks", "diffusers.models")
COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
CALCULATED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
              ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: the text from `start` to `end` (bytes of the file) becomes `new`."""

    file: Path
    line: int
    start: int
    end: int
    old: str
    new: str

    def write(self, tree: Path) -> None:
        """Put the changed file into a copy of the tree."""
        source = (ROOT / self.file).read_bytes()
        (tree / self.file).write_bytes(source[: self.start] + self.new.encode() + source[self.end :])

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {' '.join(self.old.split())} -> {self.new}"


def mutants_of(file: Path) -> Iterator[Mutant]:
    """All changes of one source file, given relative to the root."""
    source = (ROOT / file).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in _code(ast.parse(source)):
        for new in _changed(node):
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            yield Mutant(file, node.lineno, start, end, source[start:end].decode(), new)


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that do something: no annotations, no text with fields (whose positions Python 3.11 does not know)."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, (ast.JoinedStr, ast.Import, ast.ImportFrom)):
                yield from _code(child)


def _changed(node: ast.AST) -> Iterator[str]:
    """What may stand in a node's place."""
    new = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        new.ops[0] = COMPARED[type(node.ops[0])]()
        yield f"({ast.unparse(new)})"
    elif isinstance(node, ast.BinOp) and type(node.op) in CALCULATED:
        new.op = CALCULATED[type(node.op)]()
        yield f"({ast.unparse(new)})"
    elif isinstance(node, ast.BoolOp):
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield f"({ast.unparse(new)})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.IfExp):
        yield from (f"({ast.unparse(branch)})" for branch in (node.body, node.orelse))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield str(not node.value if isinstance(node.value, bool) else node.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        yield repr(node.value * 1.01 + (node.value == 0))
    elif isinstance(node, (ast.AugAssign, ast.Raise)) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)  # docstrings do nothing
    ):
        yield "pass"
    elif isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield "return None"


def tests_of(file: Path) -> list[str]:
    """Test files of a source file: those that carry its name, then the rest of the nearest folder of tests."""
    folder = ROOT / "tests" / file.parent
    while not list(folder.glob("test_*.py")):
        folder = folder.parent
    names = sorted(folder.glob("test_*.py"))
    stem = file.parent.name if file.stem == "__init__" else file.stem
    names.sort(key=lambda path: stem.split("_")[0] not in path.stem)  # stable: named ones come first
    return [str(path.relative_to(ROOT)) for path in names]


def start(mutant: Mutant, tree: Path, files: list[str]) -> int:
    """Run the tests of a mutant in a process of its own; its id."""
    mutant.write(tree)
    if process := os.fork():
        return process
    os.setsid()
    os.chdir(tree)
    for output in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    sys.path[0] = str(tree)
    code = 1
    try:
        code = sys.modules["pytest"].main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files])
    finally:
        os._exit(int(code))


def run(mutants: list[Mutant], jobs: int, limit: float, until: float) -> tuple[int, list[Mutant]]:
    """Run mutants, `jobs` at a time and none after the time `until`; how many ended, and the survivors."""
    waiting, running, ended, survivors = list(reversed(mutants)), {}, 0, []
    with tempfile.TemporaryDirectory() as folder:
        free = [Path(folder) / str(job) for job in range(jobs)]
        for tree in free:
            shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns("__pycache__", ".*", "outputs"))
            # By content: a changed file may have the size and the second of the one before it.
            compileall.compile_dir(tree, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
        while running or (waiting and time.monotonic() < until):
            while free and waiting and time.monotonic() < until:
                mutant, tree = waiting.pop(), free.pop()
                running[start(mutant, tree, tests_of(mutant.file))] = mutant, tree, time.monotonic() + limit
            time.sleep(0.02)
            for process, (mutant, tree, end) in list(running.items()):
                if time.monotonic() > end:
                    os.killpg(process, signal.SIGKILL)  # a mutant that does not end is noticed
                done, status = os.waitpid(process, os.WNOHANG)
                if done:
                    ended += 1
                    shutil.copy(ROOT / mutant.file, tree / mutant.file)
                    free.append(tree)
                    del running[process]
                    code = os.waitstatus_to_exitcode(status)
                    survivors += [mutant] * (code == 0)
                    if code <= 0:
                        print(mutant, "" if code == 0 else "(noticed: it did not end)", flush=True)
    return ended, survivors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", help="source files and folders, relative to the root")
    parser.add_argument("--sample", type=int, default=100, help="number of mutants to draw")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds one mutant's tests may take")
    parser.add_argument("--seconds", type=float, default=3600.0, help="start no mutant after this many seconds")
    arguments = parser.parse_args()
    os.environ.update(PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1", PYTHONPATH="")
    sys.dont_write_bytecode = True
    until = time.monotonic() + arguments.seconds
    paths = {found for path in arguments.paths for found in (ROOT / path, *(ROOT / path).rglob("*.py"))}
    mutants = [mutant for file in sorted(filter(Path.is_file, paths)) for mutant in mutants_of(file.relative_to(ROOT))]
    drawn = random.Random(arguments.seed).sample(mutants, min(arguments.sample, len(mutants)))
    for name in WARM:
        importlib.import_module(name)
    getattr(sys.modules["diffusers"], "LattePipeline")  # noqa: B009 - reading it imports what it needs

    ended, survivors = run(drawn, arguments.jobs, arguments.timeout, until)
    print(f"{ended - len(survivors)} of {ended} mutants noticed ({len(drawn)} drawn from {len(mutants)})")


if __name__ == "__main__":
    main()
