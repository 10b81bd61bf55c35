"""Run and compare the parts of a benchmark, as its command line asks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.machine import describe_machine
from bench.timing import DEFAULT_FILE, DEFAULT_PARTS, PARTS
from bench.timing.comparison import compare, comparison_text, figures_text
from bench.timing.memory import measure_memory
from bench.timing.mini import measure_mini
from bench.timing.models import measure_flops
from bench.timing.prompts import measure_prompts
from bench.timing.quality import markdown, measure_quality
from bench.timing.record import Record
from bench.timing.steps import measure_compile, measure_steps
from bench.timing.turns import same_threads
from opensora.errors import ConfigError

EXIT_SLOWER = 1


def run_parts(options: argparse.Namespace) -> int:
    """Run the chosen parts, print their figures, and write them to a file."""
    file = options.save or DEFAULT_FILE
    measure(options.parts or DEFAULT_PARTS, settings_of(options, {}), file)
    print(f"wrote {file}")
    return 0


def compare_runs(options: argparse.Namespace) -> int:
    """Compare a file with a new run of the same parts, or with another file; return the exit code."""
    before = Record.load(options.compare[0])
    if len(options.compare) == 2:
        after = Record.load(options.compare[1])
    else:
        parts = options.parts or [part for part in before.figures if part in PARTS]
        after = measure(parts, settings_of(options, before.settings), options.save)
        print()
    comparison = compare(before, after)
    print(comparison_text(before, after, comparison))
    if options.fail_above is None:
        return 0
    slower = comparison.slower_than(options.fail_above)
    if slower:
        print(f"slower than {options.fail_above:g} times: {', '.join(row.name for row in slower)}", file=sys.stderr)
    return EXIT_SLOWER if slower else 0


def settings_of(options: argparse.Namespace, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that figures depend on; those not given are taken from `defaults`, an earlier run's."""
    known: dict[str, Any] = {"repeats": None, "captions": 32, "no_command": False}
    given = {name: getattr(options, name) for name in known}
    return {name: defaults.get(name, value) if given[name] is None else given[name] for name, value in known.items()}


def measure(parts: Sequence[str], settings: dict[str, Any], file: Path | None) -> Record:
    """Run parts and print their figures; after each part, all figures so far are written to `file`.

    Raises:
        ConfigError: none of the parts can be measured on this machine, or the file cannot be written.
    """
    record = Record(describe_machine(), settings)
    print(figures_text("machine", record.machine), flush=True)
    for part in PARTS if "all" in parts else parts:
        try:
            with same_threads():
                record.figures[part] = task_of(part, settings)()
        except ConfigError as error:
            print(f"{part} is left out: {error}", file=sys.stderr)
            continue
        print(figures_text(part, record.figures[part]), flush=True)
        if file is not None:
            record.save(file)
    if not record.figures:
        raise ConfigError("nothing was measured")
    return record


def task_of(part: str, settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Return the function that measures a part."""
    repeats = settings["repeats"]
    return {
        "steps": lambda: measure_steps(repeats),
        "memory": measure_memory,
        "flops": measure_flops,
        "mini": lambda: measure_mini(repeats, command=not settings["no_command"]),
        "compile": lambda: measure_compile(repeats),
        "prompts": measure_prompts,
        "quality": lambda: _measure_quality(settings["captions"]),
    }[part]


def _measure_quality(captions: int) -> dict[str, Any]:
    """Measure held-out captions under several caches; print the table of docs/figures.md."""
    result = measure_quality(captions)
    print(markdown(result))
    return result
