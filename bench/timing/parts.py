"""Run the parts of a benchmark that its command line asks for, print their figures, and keep them in a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adacache.atomic import atomic_path
from bench.machine import describe_machine
from bench.timing import DEFAULT_PARTS, PARTS
from bench.timing.memory import measure_memory
from bench.timing.mini import measure_mini
from bench.timing.models import measure_flops
from bench.timing.prompts import measure_prompts
from bench.timing.quality import markdown, measure_quality
from bench.timing.steps import measure_compile, measure_steps
from bench.timing.turns import Samples, same_threads
from opensora.errors import ConfigError
from opensora.files import make_output_folder

_NAME_WIDTH = 40


def run_parts(options: argparse.Namespace) -> int:
    """Run the chosen parts and print their figures; after each part, all figures so far are written to `options.save`.

    Raises:
        ConfigError: none of the parts can be measured on this machine, or the file cannot be written.
    """
    chosen = options.parts or DEFAULT_PARTS
    make_output_folder(options.save.parent, "--save")
    if options.save.is_dir():
        raise ConfigError(f"--save {options.save} is a folder; name a file in it")
    settings = {name: getattr(options, name) for name in ("repeats", "captions", "no_command")}
    record: dict[str, Any] = {"machine": describe_machine(), "settings": settings, "figures": {}}
    print(figures_text("machine", record["machine"]), flush=True)
    for part in PARTS if "all" in chosen else chosen:
        try:
            with same_threads():
                figures = task_of(part, options)()
        except ConfigError as error:
            print(f"{part} is left out: {error}", file=sys.stderr)
            continue
        print(figures_text(part, figures), flush=True)
        if part == "quality":
            print(markdown(figures))
        record["figures"][part] = figures
        save(record, options.save)
    if not record["figures"]:
        raise ConfigError("nothing was measured")
    print(f"wrote {options.save}")
    return 0


def task_of(part: str, options: argparse.Namespace) -> Callable[[], dict[str, Any]]:
    """Return the function that measures a part."""
    return {
        "steps": lambda: measure_steps(options.repeats),
        "memory": measure_memory,
        "flops": measure_flops,
        "mini": lambda: measure_mini(options.repeats, command=not options.no_command),
        "compile": lambda: measure_compile(options.repeats),
        "prompts": measure_prompts,
        "quality": lambda: measure_quality(options.captions),
    }[part]


def figures_text(title: str, values: Mapping[str, Any], indent: int = 0) -> str:
    """Format nested figures as aligned lines: the median and, for repeated samples, the quartiles."""
    lines = [f"{' ' * indent}{title}"]
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines.append(figures_text(name, value, indent + 2))
        else:
            lines.append(f"{' ' * (indent + 2)}{name:<{_NAME_WIDTH - indent}} {_figure(value)}")
    return "\n".join(lines)


def _figure(value: Any) -> str:
    if not isinstance(value, Samples):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    if len(value.values) == 1:
        return f"{value.median:.4g}"
    first, third = value.quartiles
    return f"{value.median:<8.4g} quartiles {first:.4g} to {third:.4g}, n = {len(value.values)}"


def save(record: Mapping[str, Any], path: Path) -> None:
    """Write figures, samples, machine and settings as JSON; the file appears complete or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """

    def plain(samples: Samples) -> dict[str, Any]:
        return {
            "median": samples.median,
            "quartiles": samples.quartiles,
            "unit": samples.unit,
            "samples": samples.values,
        }

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            text = json.dumps(record, indent=1, allow_nan=False, default=plain)
            temporary.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); choose another one with --save") from error
